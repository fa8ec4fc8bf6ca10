"""Pictures moved along optical flow.

A flow [B, 2, H, W] holds (dx, dy) in pixels: the point p of this frame is found at p + flow(p) of the other.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def warp(image: Tensor, flow: Tensor) -> Tensor:
    """[B, C, H, W] of the other frame as this frame would show it; bilinear, the border repeated outside.

    flow: [B, 2, H, W] in pixels, from this frame to the other.
    """
    height, width = image.shape[-2:]
    place = _grid(flow) + flow.permute(0, 2, 3, 1)
    # grid_sample counts from -1 to 1 between the centres of the outermost pixels.
    size = torch.tensor([max(width - 1, 1), max(height - 1, 1)]).to(flow)
    return functional.grid_sample(image, place / size * 2 - 1, padding_mode="border", align_corners=True)


def inside(flow: Tensor) -> Tensor:
    """[B, 1, H, W] of 0 and 1: whether the flow stays inside the other frame."""
    height, width = flow.shape[-2:]
    place = _grid(flow) + flow.permute(0, 2, 3, 1)
    within = (place >= 0).all(dim=-1) & (place[..., 0] <= width - 1) & (place[..., 1] <= height - 1)
    return within[:, None].to(flow)


def visible(flow: Tensor, back: Tensor) -> Tensor:
    """[B, 1, H, W] of 0 and 1: where there-and-back ends where it began, so that both frames show the point.

    flow: from this frame to the other, back: from the other to this one, [B, 2, H, W] in pixels. The bound,
    0.01 (|flow|² + |back|²) + 0.5, is Sundaram, Brox and Keutzer, "Dense point trajectories", ECCV 2010.
    """
    returned = warp(back, flow)
    gap = (flow + returned).square().sum(dim=1, keepdim=True)
    bound = 0.01 * (flow.square() + returned.square()).sum(dim=1, keepdim=True) + 0.5
    return (gap < bound).to(flow) * inside(flow)


def resize_flow(flow: Tensor, height: int, width: int) -> Tensor:
    """The same motion on a grid of another size, its lengths in that grid's pixels."""
    before = flow.shape[-2:]
    resized = functional.interpolate(flow, (height, width), mode="bilinear", align_corners=False)
    ratio = torch.tensor([width / before[1], height / before[0]]).to(flow)
    return resized * ratio.view(1, 2, 1, 1)


def _grid(flow: Tensor) -> Tensor:
    """[H, W, 2]: each pixel's own (x, y)."""
    height, width = flow.shape[-2:]
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    return torch.stack([x, y], dim=-1).to(flow)
