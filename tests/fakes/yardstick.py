"""diffusers' own pipeline over the same checkpoint: what the engine's result must be equal to."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import QwenImageEditPlusPipeline
from diffusers.pipelines.qwenimage import pipeline_qwenimage_edit_plus as module
from PIL import Image


def load(folder: Path, area: int) -> QwenImageEditPlusPipeline:
    """The pipeline, with the areas that are part of the pocket model's spec and with 3-D positions of image tokens.

    Both are constants or omissions of diffusers' code (issue 14194), not of its mathematics.
    """
    module.CONDITION_IMAGE_SIZE = module.VAE_IMAGE_SIZE = area
    pipeline = QwenImageEditPlusPipeline.from_pretrained(folder)
    pipeline.set_progress_bar_config(disable=True)
    encoder = pipeline.text_encoder
    plain_forward = encoder.forward

    def forward(*args: Any, **kwargs: Any) -> Any:
        kwargs["mm_token_type_ids"] = (kwargs["input_ids"] == encoder.config.image_token_id).int()
        return plain_forward(*args, **kwargs)

    encoder.forward = forward
    return pipeline


def edit(
    pipeline: Any, images: list[Image.Image], prompt: str, *, seed: int, steps: int, cfg: float, size: tuple[int, int]
) -> np.ndarray:
    """One edit [H, W, 3] in 8 bits, as the pipeline makes it."""
    result = pipeline(
        images,
        prompt,
        negative_prompt=" " if cfg > 1 else None,
        true_cfg_scale=cfg,
        num_inference_steps=steps,
        width=size[0],
        height=size[1],
        generator=torch.Generator().manual_seed(seed),
    )
    return np.asarray(result.images[0])
