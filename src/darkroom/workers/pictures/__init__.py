"""What jobs that make pictures by prompts share: reading them, LoRAs, denoising in batches, files."""
