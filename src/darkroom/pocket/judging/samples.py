"""Edits made by the engine, with a family from a folder."""

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import torch
from PIL import Image

from darkroom.models.areas import Areas
from darkroom.models.editor import Editor
from darkroom.models.parts import LOADERS, load_processor, load_schedule
from darkroom.models.presets import Preset
from darkroom.pocket.family import CONDITION_AREA, VAE_AREA
from darkroom.pocket.folders import is_family
from darkroom.pocket.shipped import check
from darkroom.pocket.world.colours import Pixels
from darkroom.pocket.world.edit import Edit
from darkroom.technique.latents import pack
from darkroom.technique.sampling import sample


def load_editor(folder: Path) -> Editor:
    """The engine with the family in `folder`, in float32 on the CPU.

    Raises FileNotFoundError where there is none, and ModelNotReady that names a damaged file.
    """
    if not is_family(folder):
        raise FileNotFoundError(f"there is no family in {folder}: it holds no model_index.json")
    check(folder)
    return Editor(
        **{name: load(folder / name, "float32") for name, load in LOADERS.items()},
        processor=load_processor(folder / "processor"),
        schedule=load_schedule(folder / "scheduler"),
        areas=Areas(sight=CONDITION_AREA, vae=VAE_AREA),
    )


def to_picture(pixels: Pixels) -> Image.Image:
    """[H, W, 3] in [0, 1] as an 8-bit RGB picture."""
    return Image.fromarray(np.round(pixels * 255).astype(np.uint8))


def said(preset: Preset) -> str:
    """A preset in words."""
    return f"{preset.steps} steps, CFG {preset.true_cfg_scale:g}" + (", LoRA" if preset.lora else "")


def stem(preset: Preset) -> str:
    """A preset in the name of a file."""
    return f"{preset.steps}_steps_cfg_{preset.true_cfg_scale:g}" + ("_lora" if preset.lora else "")


@torch.no_grad()
def apply(editor: Editor, edit: Edit, seed: int, preset: Preset) -> Pixels:
    """What an image_edit job would make of `edit`'s pictures and instruction: [H, W, 3] in [0, 1].

    The preset's LoRA is the caller's to put on. The model edits at its own area; another size is brought back to
    that of the source. A picture that only the vision encoders may see is shown to them in the source's place.
    """
    references = editor.reference([to_picture(picture) for picture in edit.sources])
    if edit.sight is not None:
        references = replace(references, visual=editor.reference([to_picture(edit.sight)]).visual)
    width, height = editor.output_size(references, None)
    negative = " " if preset.true_cfg_scale > 1 else None
    conditioning = editor.condition([edit.instruction], references, negative)
    denoise = editor.denoiser(conditioning, width, height, preset.true_cfg_scale)
    latents = editor.noise([seed], width, height)
    for step in sample(denoise, latents, editor.sigmas(preset.steps, width, height, preset.shift)):
        latents = step.latents
    made = _pixels(editor.decode(latents, width, height))
    return _sized(made, edit.source.shape[1], edit.source.shape[0])


@torch.no_grad()
def round_trip(editor: Editor, source: Pixels) -> Pixels:
    """`source` through the VAE alone: the most that an edit can preserve."""
    height, width = source.shape[:2]
    tensor = torch.from_numpy(np.round(source * 255) / 127.5 - 1).permute(2, 0, 1)[None].float()
    latents = editor.encode(tensor)
    return _pixels(editor.decode(pack(latents), width, height))


def _sized(pixels: Pixels, width: int, height: int) -> Pixels:
    if pixels.shape[:2] == (height, width):
        return pixels
    resized = cv2.resize(pixels, (width, height), interpolation=cv2.INTER_CUBIC)
    return np.clip(resized, 0, 1).astype(np.float32)


def _pixels(decoded: torch.Tensor) -> Pixels:
    return (decoded[0].permute(1, 2, 0).numpy() / 2 + 0.5).clip(0, 1).astype(np.float32)
