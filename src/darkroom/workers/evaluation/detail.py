"""What an edit leaves alone: everything outside the shape that it recolours, on photographs and textures."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

import cv2
import numpy as np
from torch import Tensor

from darkroom.pocket.world.edit import Mask, differing, grown
from darkroom.pocket.world.edits import draw_edit
from darkroom.pocket.world.photos import photo
from darkroom.pocket.world.scenes import shows
from darkroom.technique.likeness import Pixels, perceptual, psnr, registered, ssim
from darkroom.workers.evaluation.case import Case, Ruler, Scores, Shot, Suite
from darkroom.workers.evaluation.scenes import BASE, scaled

RULERS = (
    Ruler("psnr", "peak signal-to-noise ratio outside the edit, after registration", unit="dB"),
    Ruler("ssim", "structural similarity outside the edit, after registration"),
    Ruler("lpips", "perceptual distance outside the edit, after registration", "lower"),
)
SEED = 910_002
PHOTO = ("skimage.data", "chelsea.png")
"""A photograph that the pocket model has never seen in training."""

Distance = Callable[[Tensor, Tensor], Tensor]

_ROOM = 2
"""Pixels of 128 around the edit that do not count: the VAE mixes what lies so near."""


def detail(cases: int, scale: int, distance: Distance) -> Suite:
    """Recolourings, on crops of a photograph and on the world's own grounds by turns."""
    drawn = tuple(_case(np.random.default_rng((SEED, number)), number % 2 == 0, scale, distance)
                  for number in range(cases))  # fmt: skip
    return Suite("detail", "Detail preservation", RULERS, drawn, ceiling="round trip")


def _case(rng: np.random.Generator, on_photo: bool, scale: int, distance: Distance) -> Case:
    while True:
        edit = draw_edit(rng, "recolour")
        assert edit.scene is not None
        assert edit.after is not None
        assert edit.before is not None
        target = scaled(edit.scene, scale)
        if on_photo:
            target = replace(target, ground=_crop(rng, BASE * scale))
        items = dict(zip(edit.scene.items, target.items, strict=True))
        after = items[edit.after]
        source = target.swap(after, replace(after, colour=edit.before.colour))
        if all(shows(target, item) for item in (*target.items, *source.items)):
            break
    pictures = source.render(), target.render()
    mask = grown(differing(*pictures), _ROOM * scale)
    return Case((Shot(pictures[0], edit.instruction, pictures[1]),), partial(judge, *pictures, mask, distance))


def _crop(rng: np.random.Generator, side: int) -> Pixels:
    """A square of the photograph, at most twice enlarged."""
    image = photo(*PHOTO)
    least = min(max(side // 2, 100), min(image.shape[:2]))
    size = int(rng.integers(least, min(image.shape[:2]) + 1))
    top, left = (int(rng.integers(length - size + 1)) for length in image.shape[:2])
    piece = cv2.resize(image[top : top + size, left : left + size], (side, side), interpolation=cv2.INTER_AREA)
    return np.asarray(piece, dtype=np.float32).clip(0, 1)


def judge(source: Pixels, target: Pixels, mask: Mask, distance: Distance, results: Sequence[Pixels]) -> Scores:
    """Against the target outside `mask`, where it is the source; drift is found against the source and undone."""
    result, kept = registered(results[0], source), ~mask
    return {
        "psnr": psnr(result, target, kept),
        "ssim": ssim(result, target, kept),
        "lpips": perceptual(result, target, kept, distance),
    }
