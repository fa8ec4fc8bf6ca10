"""The pocket world: scenes, photos and edits with exact ground truth, all drawn from seeds."""
