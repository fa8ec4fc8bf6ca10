"""Edits made by the engine, with a family from a folder."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image

from darkroom.models.areas import Areas
from darkroom.models.editor import Editor
from darkroom.models.parts import LOADERS, load_processor, load_schedule
from darkroom.pocket.family import CONDITION_AREA, VAE_AREA
from darkroom.pocket.world.colours import Pixels
from darkroom.technique.sampling import sample


def load_editor(folder: Path) -> Editor:
    """The engine with the family in `folder`, in float32 on the CPU."""
    return Editor(
        **{name: load(folder / name, "float32") for name, load in LOADERS.items()},
        processor=load_processor(folder / "processor"),
        schedule=load_schedule(folder / "scheduler"),
        areas=Areas(sight=CONDITION_AREA, vae=VAE_AREA),
    )


def to_picture(pixels: Pixels) -> Image.Image:
    """[H, W, 3] in [0, 1] as an 8-bit RGB picture."""
    return Image.fromarray(np.round(pixels * 255).astype(np.uint8))


@torch.no_grad()
def apply(editor: Editor, source: Pixels, instruction: str, seed: int, steps: int, true_cfg_scale: float) -> Pixels:
    """`source` edited by `instruction`, as an image_edit job would: [H, W, 3] in [0, 1], of the same size."""
    height, width = source.shape[:2]
    references = editor.reference([to_picture(source)])
    negative = " " if true_cfg_scale > 1 else None
    conditioning = editor.condition([instruction], references, negative)
    denoise = editor.denoiser(conditioning, width, height, true_cfg_scale)
    latents = editor.noise([seed], width, height)
    for step in sample(denoise, latents, editor.sigmas(steps, width, height)):
        latents = step.latents
    return _pixels(editor.decode(latents, width, height))


@torch.no_grad()
def round_trip(editor: Editor, source: Pixels) -> Pixels:
    """`source` through the VAE alone: the most that an edit can preserve."""
    height, width = source.shape[:2]
    tensor = torch.from_numpy(np.round(source * 255) / 127.5 - 1).permute(2, 0, 1)[None].float()
    latents = editor.encode(tensor)
    from darkroom.technique.latents import pack

    return _pixels(editor.decode(pack(latents), width, height))


def _pixels(decoded: torch.Tensor) -> Pixels:
    return (decoded[0].permute(1, 2, 0).numpy() / 2 + 0.5).clip(0, 1).astype(np.float32)
