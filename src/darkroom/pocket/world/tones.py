"""Edits of the whole picture's tone: exact functions of each pixel."""

from collections.abc import Callable

import numpy as np

from darkroom.pocket.world.colours import Pixels

# Rec. 601, as Pillow's "L" and as most photo programs.
_LUMA = np.array([0.299, 0.587, 0.114], dtype=np.float32)
_SEPIA_TINT = np.array([1.07, 0.87, 0.62], dtype=np.float32)


def black_and_white(image: Pixels) -> Pixels:
    """Rec. 601 luma in all three channels."""
    return np.repeat((image @ _LUMA)[..., None], 3, axis=-1)


def sepia(image: Pixels) -> Pixels:
    """Luma, tinted brown."""
    return np.asarray(np.clip((image @ _LUMA)[..., None] * _SEPIA_TINT, 0, 1), dtype=np.float32)


def brighter(image: Pixels) -> Pixels:
    """Halfway up a curve that keeps black and white in place."""
    return np.asarray(1 - (1 - image) ** 1.8, dtype=np.float32)


def darker(image: Pixels) -> Pixels:
    """Every value times 0.55."""
    return np.asarray(image * 0.55, dtype=np.float32)


def inverted(image: Pixels) -> Pixels:
    """The negative."""
    return np.asarray(1 - image, dtype=np.float32)


TONES: dict[str, Callable[[Pixels], Pixels]] = {
    "black and white": black_and_white,
    "sepia": sepia,
    "brighter": brighter,
    "darker": darker,
    "inverted": inverted,
}
