"""The sizes at which pictures enter a model."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Areas:
    """Pixels of Qwen2.5-VL's sight and of the VAE's reference latents; the defaults are the real family's."""

    sight: int = 384 * 384
    vae: int = 1024 * 1024
