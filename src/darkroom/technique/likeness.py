"""How like two pictures are in some of their pixels, and where in a picture a colour lies.

Pictures are [H, W, 3] float32 in 0…1, masks [H, W] bool.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from skimage.metrics import structural_similarity
from torch import Tensor

from darkroom.technique.registration import drift, undo

Pixels = NDArray[np.float32]
Mask = NDArray[np.bool_]

MOST_PSNR = 60.0
"""dB of pictures that are equal, or nearly so."""

_WINDOW = 7


def psnr(one: Pixels, other: Pixels, where: Mask) -> float:
    """Peak signal-to-noise ratio in dB over the pixels in `where`, at most MOST_PSNR."""
    error = float(np.mean((one - other)[where].astype(np.float64) ** 2))
    return MOST_PSNR if error == 0 else min(MOST_PSNR, float(-10 * np.log10(error)))


def ssim(one: Pixels, other: Pixels, where: Mask) -> float:
    """Structural similarity, −1…1: the mean of its map over `where`, with windows of 7 × 7 pixels.

    Wang et al., "Image quality assessment" (2004). Pixels whose window leaves `where` are left out; where none is
    left, all of `where` counts.
    """
    _, similar = structural_similarity(
        one.astype(np.float64), other.astype(np.float64), win_size=_WINDOW, channel_axis=-1, data_range=1.0, full=True
    )
    inside = _eroded(where, _WINDOW // 2)
    return float(similar.mean(axis=-1)[inside if inside.any() else where].mean())


def perceptual(one: Pixels, other: Pixels, where: Mask, distance: Callable[[Tensor, Tensor], Tensor]) -> float:
    """`distance` (0 for equal pictures) where both differ in `where` alone: elsewhere `one` takes `other`'s pixels."""
    alike = np.where(where[..., None], one, other)
    with torch.no_grad():
        return float(distance(as_tensor(alike), as_tensor(other))[0])


def registered(picture: Pixels, reference: Pixels) -> Pixels:
    """`picture` without the small shift and zoom that an edit may have added, found against `reference`."""
    tensor = as_tensor(picture)
    straight = undo(tensor, drift(tensor, as_tensor(reference)))
    return as_pixels(straight)


def centroid(mask: Mask) -> tuple[float, float] | None:
    """(x, y) in pixels of the mean of `mask`'s pixels; None where it has none."""
    rows, columns = np.nonzero(mask)
    return (float(columns.mean()), float(rows.mean())) if len(rows) else None


def nearer(picture: Pixels, colour: Pixels, others: Sequence[Pixels]) -> Mask:
    """Where a picture is nearer to `colour` than to all `others`, in sRGB; a colour is [3], or [H, W, 3] by places."""
    own = np.linalg.norm(picture - colour, axis=-1)
    return np.asarray(np.all([own < np.linalg.norm(picture - other, axis=-1) for other in others], axis=0))


def as_tensor(picture: Pixels) -> Tensor:
    """[1, 3, H, W] in −1…1."""
    return torch.from_numpy(np.ascontiguousarray(picture, dtype=np.float32)).permute(2, 0, 1)[None] * 2 - 1


def as_pixels(tensor: Tensor) -> Pixels:
    """[1, 3, H, W] in −1…1, beyond which it is clamped, as a picture."""
    scaled: Pixels = (tensor[0].permute(1, 2, 0).numpy() / 2 + 0.5).clip(0, 1).astype(np.float32)
    return scaled


def _eroded(mask: Mask, pixels: int) -> Mask:
    """Pixels of `mask` all of whose neighbours within `pixels`, in rows and columns, are of it and in the picture."""
    padded = np.pad(mask, pixels)
    windows = np.lib.stride_tricks.sliding_window_view(padded, (2 * pixels + 1, 2 * pixels + 1))
    return np.asarray(windows.all(axis=(2, 3)))
