"""The pocket world: scenes, photos and edits with exact ground truth, all drawn from seeds."""

VERSION = 4
"""Raised where a seed draws something else than before: nothing drawn earlier is taught beside it."""
