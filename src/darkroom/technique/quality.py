"""What a set of pictures is like, whatever they show: how sharp, and how different from each other."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

_LAPLACIAN = ((0.0, 1.0, 0.0), (1.0, -4.0, 1.0), (0.0, 1.0, 0.0))
_LUMA = (0.299, 0.587, 0.114)


def sharpness(pixels: Tensor) -> Tensor:
    """[B]: variance of the Laplacian of the luma, in levels of 255, for pictures [B, 3, H, W] in -1…1.

    Pech-Pacheco et al., "Diatom autofocusing in brightfield microscopy", ICPR 2000.
    """
    levels = (pixels.float() + 1) * 127.5
    luma = (levels * levels.new_tensor(_LUMA)[:, None, None]).sum(dim=1, keepdim=True)
    return functional.conv2d(luma, luma.new_tensor(_LAPLACIAN)[None, None]).flatten(1).var(dim=1, correction=0)


@torch.no_grad()
def diversity(pixels: Tensor, distance: Callable[[Tensor, Tensor], Tensor]) -> float | None:
    """Mean distance (LPIPS) over all pairs of pictures [B, 3, H, W] in -1…1; None where there is no pair."""
    if len(pixels) < 2:
        return None
    gaps = [distance(pixels[[i]].expand_as(pixels[i + 1 :]), pixels[i + 1 :]) for i in range(len(pixels) - 1)]
    return float(torch.cat([gap.flatten() for gap in gaps]).mean())
