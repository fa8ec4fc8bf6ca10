"""The most a job may ask for. Every number is a setting; the README lists them."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, PositiveFloat, PositiveInt


class Limits(BaseModel):
    """Upper bounds checked before any model or decoder sees a request."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    max_steps: PositiveInt = 200
    max_prompts: PositiveInt = 16
    max_prompt_chars: PositiveInt = 8_000
    max_images_per_prompt: PositiveInt = 8
    max_loras: PositiveInt = 4
    max_cells: PositiveInt = 100
    max_frames: PositiveInt = 2_000
    max_side: PositiveInt = 2_048
    """Longest side of an output, in pixels."""
    max_source_bytes: PositiveInt = 32 * 2**20
    """Largest source picture as it comes over the wire."""
    max_source_pixels: PositiveInt = 64_000_000
    """Largest source picture once unpacked, checked before it is decoded."""
    max_clip_bytes: PositiveInt = 256 * 2**20
    """Largest video or zip of frames, and the most that a list of frames may weigh together."""
    max_lora_bytes: PositiveInt = 2 * 2**30
    """Largest LoRA that a job may bring or name."""
    fetch_seconds: PositiveFloat = 20.0
    """Longest time that one source may take to arrive."""
