"""Rulers for frames. Guidance descends none of the edge F1, the perceptual distances and the warp error."""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from darkroom.technique.losses import Features, edge_loss, resized, style_like, temporal_loss
from darkroom.technique.warp import warp

Distance = Callable[[Tensor, Tensor], Tensor]
"""Two pictures [B, 3, H, W] in -1…1 -> [B]: a perceptual distance."""

CANNY = (60.0, 140.0)
"""Canny's low and high thresholds, in levels of 255, after a Gaussian blur of _BLUR pixels."""

_BLUR = 0.8


@torch.no_grad()
def frame_metrics(
    frame: Tensor,
    *,
    edges: Tensor,
    init: Tensor,
    previous: Tensor,
    features: Features,
    distance: Distance,
    flow: Tensor | None = None,
    mask: Tensor | None = None,
) -> dict[str, float]:
    """One row of metrics.csv for a frame [1, 3, H, W] in -1…1; keys as the columns are named.

    edges: [1, 1 or 3, h, w] in 0…1. init, previous: frames like `frame`. flow: [1, 2, H, W] to the previous frame, with
    its mask; without one `warp_error` is left out.
    """
    row = {
        "edge_loss": float(edge_loss(frame, edges)),
        "gram_loss": float(style_like(init, features)(frame)),
        "lpips_to_init": float(distance(frame, init)),
        "lpips_to_prev": float(distance(frame, previous)),
        "edge_f1": edge_f1(canny(frame), resized(edges.to(frame).mean(dim=1, keepdim=True), frame) > 0.3),
    }
    return row if flow is None else {**row, "warp_error": warp_error(frame, previous, flow, mask)}


def warp_error(frame: Tensor, previous: Tensor, flow: Tensor, mask: Tensor | None = None) -> float:
    """Mean absolute difference, 0…1, between a frame and the one before it moved along the flow, where both show it."""
    return float(temporal_loss(frame, warp(previous, flow), mask)) / 2


def edge_f1(found: Tensor, wanted: Tensor, tolerance: int = 2) -> float:
    """0…1: F1 of edge pixels [1, 1, H, W] (bool), where a pixel counts within `tolerance` pixels of the other's.

    Without any edge on either side this is 1: nothing was wanted and nothing found.
    """
    if not found.any() and not wanted.any():
        return 1.0
    precision = _share(found, _grown(wanted, tolerance))
    recall = _share(wanted, _grown(found, tolerance))
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def canny(pixels: Tensor, thresholds: tuple[float, float] = CANNY) -> Tensor:
    """[1, 3, H, W] in -1…1 -> [1, 1, H, W] bool: OpenCV's Canny edges, on the channel with the steepest slope."""
    levels = ((pixels[0].float().clamp(-1, 1) + 1) * 127.5).round().byte().permute(1, 2, 0).cpu().numpy()
    lines = cv2.Canny(cv2.GaussianBlur(np.ascontiguousarray(levels), (0, 0), _BLUR), *thresholds)
    return torch.from_numpy(np.asarray(lines) > 0)[None, None].to(pixels.device)


def _share(pixels: Tensor, allowed: Tensor) -> float:
    count = int(pixels.sum())
    return int((pixels & allowed).sum()) / count if count else 0.0


def _grown(pixels: Tensor, radius: int) -> Tensor:
    return functional.max_pool2d(pixels.float(), 2 * radius + 1, 1, radius) > 0
