"""diffusers' own pipeline over an editor's weights: what the engine's results and seconds are held against."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from diffusers import FlowMatchEulerDiscreteScheduler, QwenImageEditPlusPipeline, QwenImagePipeline
from diffusers.pipelines.qwenimage import pipeline_qwenimage_edit_plus as module
from PIL.Image import Image

from darkroom.models.editor import Editor


def pipeline_over(editor: Editor) -> Any:
    """QwenImageEditPlusPipeline on the editor's own modules, with its areas and with 3-D positions of image tokens.

    Areas and positions are constants and an omission of diffusers' code (issue 14194), not of the mathematics;
    without them the pipeline would be given another input and not be comparable. The areas are set for the process.
    """
    module.CONDITION_IMAGE_SIZE, module.VAE_IMAGE_SIZE = editor.areas.sight, editor.areas.vae
    pipeline = QwenImageEditPlusPipeline(
        scheduler=_scheduler(editor),
        vae=editor.vae,
        text_encoder=_with_positions(editor.text_encoder),
        tokenizer=editor.processor.tokenizer,
        processor=editor.processor,
        transformer=editor.transformer,
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def edit(
    pipeline: Any,
    images: Sequence[Image],
    prompt: str,
    *,
    seed: int,
    steps: int,
    true_cfg_scale: float,
    size: tuple[int, int],
) -> np.ndarray:
    """One edit as the pipeline makes it: [H, W, 3] in 8 bits; size is (width, height)."""
    result = pipeline(
        list(images),
        prompt,
        negative_prompt=" " if true_cfg_scale > 1 else None,
        true_cfg_scale=true_cfg_scale,
        num_inference_steps=steps,
        width=size[0],
        height=size[1],
        generator=torch.Generator().manual_seed(seed),
    )
    return np.asarray(result.images[0])


def generator_over(editor: Editor) -> Any:
    """QwenImagePipeline, text to image, on the editor's own modules."""
    pipeline = QwenImagePipeline(
        scheduler=_scheduler(editor),
        vae=editor.vae,
        text_encoder=editor.text_encoder,
        tokenizer=editor.processor.tokenizer,
        transformer=editor.transformer,
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def generate(
    pipeline: Any,
    prompt: str,
    *,
    negative_prompt: str,
    seed: int,
    steps: int,
    true_cfg_scale: float,
    size: tuple[int, int],
) -> np.ndarray:
    """One picture from text as the pipeline makes it: [H, W, 3] in 8 bits; size is (width, height)."""
    result = pipeline(
        prompt,
        negative_prompt=negative_prompt if true_cfg_scale > 1 else None,
        true_cfg_scale=true_cfg_scale,
        num_inference_steps=steps,
        width=size[0],
        height=size[1],
        generator=torch.Generator().manual_seed(seed),
    )
    return np.asarray(result.images[0])


def _scheduler(editor: Editor) -> Any:
    schedule = editor.schedule
    return FlowMatchEulerDiscreteScheduler(
        use_dynamic_shifting=True,
        base_shift=schedule.base_shift,
        max_shift=schedule.max_shift,
        base_image_seq_len=schedule.base_image_seq_len,
        max_image_seq_len=schedule.max_image_seq_len,
        shift_terminal=schedule.shift_terminal,
    )


def _with_positions(text_encoder: Any) -> Any:
    """A copy that shares all weights and passes the token types that diffusers leaves out."""
    seeing = copy.copy(text_encoder)

    def forward(*args: Any, **kwargs: Any) -> Any:
        kwargs["mm_token_type_ids"] = (kwargs["input_ids"] == text_encoder.config.image_token_id).int()
        return type(text_encoder).forward(text_encoder, *args, **kwargs)

    seeing.forward = forward
    return seeing
