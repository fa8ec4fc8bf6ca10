"""What guidance descends: each loss takes pixels [B, 3, H, W] and gives [B], one number per picture.

Pixels run from -1 to 1 and may lie a little outside, where a decoder without a clamp puts them. Targets are resized
to the pixels that come, so that one loss serves every size that a picture is decoded at.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional

from darkroom.technique.warp import resize_flow, warp

Loss = Callable[[Tensor], Tensor]
"""Pixels [B, 3, H, W] in -1…1 -> [B]."""

Features = Callable[[Tensor], Sequence[Tensor]]
"""Pixels [B, 3, H, W] in -1…1 -> feature maps [B, C_i, H_i, W_i], one per tap."""

SCALES = (1, 2, 4)
"""Edges are compared at full size, a half and a quarter: a line next to its target must feel its pull."""

_TOP_SHARE = 0.01
_LEAST_PEAK = 0.05
_HALF = 0.5


def edges_like(edges: Tensor) -> Loss:
    """The distance of a picture's edges from `edges`: [B or 1, 1 or 3, H, W] in 0…1, bright lines on black."""
    return lambda pixels: edge_loss(pixels, edges)


def style_like(image: Tensor, features: Features) -> Loss:
    """The distance of a picture's Gram matrices from those of `image`, [1, 3, H, W] in -1…1 (the init frame)."""
    known: dict[tuple[int, ...], list[Tensor]] = {}

    def loss(pixels: Tensor) -> Tensor:
        size = tuple(pixels.shape[-2:])
        if size not in known:
            with torch.no_grad():
                known[size] = [gram(tap) for tap in features(resized(image.to(pixels), pixels))]
        return gram_loss(features(pixels), known[size])

    return loss


def motion_like(previous: Tensor, flow: Tensor | None = None, mask: Tensor | None = None) -> Loss:
    """The distance of a picture from the frame before it, moved along the flow where that frame shows it.

    previous: [1, 3, H, W] in -1…1. flow: [1, 2, H, W] in pixels of its own grid, from this frame to the previous.
    mask: [1, 1, H, W], 1 where both frames show the point. Without a flow this is the plain L1 distance, which
    also pulls at everything that rightly moves: whoever builds it so must say so.
    """

    def loss(pixels: Tensor) -> Tensor:
        before = resized(previous.to(pixels), pixels)
        seen = None if mask is None else resized(mask.to(pixels), pixels)
        if flow is not None:
            before = warp(before, resize_flow(flow.to(pixels), *pixels.shape[-2:]))
        return temporal_loss(pixels, before, seen)

    return loss


def edge_loss(pixels: Tensor, edges: Tensor, scales: Sequence[int] = SCALES) -> Tensor:
    """[B]: mean L1 between the Sobel magnitude of `pixels` and the lines of `edges`, over `scales`.

    edges: [B or 1, 1 or 3, H, W] in 0…1. At every scale both sides are shrunk, softened (a Sobel ridge is wider than a
    drawn line), divided by their own peak and bent alike, so that a line asks for a line of any strength in its place:
    drawn lines are all equally bright, and edges of a true picture are not.
    """
    target = resized(edges.to(pixels).mean(dim=1, keepdim=True), pixels)
    distances = []
    for scale in scales:
        ridges = sobel_magnitude(_shrunk(pixels, scale)) - _SMOOTHING**0.5
        lines = _shrunk(target, scale)
        distances.append((_levelled(ridges) - _levelled(lines)).abs().mean(dim=(1, 2, 3)))
    return torch.stack(distances).mean(dim=0)


def gram_loss(features: Sequence[Tensor], targets: Sequence[Tensor]) -> Tensor:
    """[B]: the L1 distance between Gram matrices, averaged over the taps.

    features: maps [B, C_i, H_i, W_i]. targets: matrices [1 or B, C_i, C_i] as `gram` gives them.
    Gatys, Ecker and Bethge, "Image style transfer using convolutional neural networks", CVPR 2016.
    """
    pairs = zip(features, targets, strict=True)
    return torch.stack([(gram(tap) - target).abs().mean(dim=(1, 2)) for tap, target in pairs]).mean(dim=0)


def temporal_loss(pixels: Tensor, before: Tensor, mask: Tensor | None = None) -> Tensor:
    """[B]: the mean of |pixels - before| where `mask` is 1; 0 where nothing is to be seen in both.

    before: [B or 1, 3, H, W], already moved. mask: [B or 1, 1, H, W] in 0…1, everywhere by default.
    """
    difference = (pixels - before).abs().mean(dim=1, keepdim=True)
    weight = torch.ones_like(difference) if mask is None else mask.expand_as(difference)
    seen = weight.sum(dim=(1, 2, 3))
    return (weight * difference).sum(dim=(1, 2, 3)) / seen.clamp(min=torch.finfo(seen.dtype).tiny)


def gram(features: Tensor) -> Tensor:
    """Features [B, C, H, W] -> [B, C, C]: F·Fᵀ / (C·H·W)."""
    flat = features.flatten(2)
    return flat @ flat.transpose(1, 2) / (flat.shape[1] * flat.shape[2])


_SMOOTHING = 1e-6


def sobel_magnitude(pixels: Tensor) -> Tensor:
    """Pixels [B, C, H, W] in -1…1 -> [B, 1, H, W]: sqrt(dx² + dy² + 1e-6) of the picture in 0…1.

    The squares are averaged over the colours, so an edge between colours of equal lightness counts too. A full step
    from black to white is about 1; the border is repeated outside.
    """
    kernel = torch.tensor([[-1.0, 0.0, 1.0], [-2.0, 0.0, 2.0], [-1.0, 0.0, 1.0]]).to(pixels) / 4
    planes = functional.pad((pixels + 1) / 2, (1, 1, 1, 1), mode="replicate").flatten(0, 1)[:, None]
    slopes = functional.conv2d(planes, torch.stack([kernel, kernel.T])[:, None])
    squares = slopes.square().sum(dim=1).view(pixels.shape).mean(dim=1, keepdim=True)
    return (squares + _SMOOTHING).sqrt()


def resized(image: Tensor, like: Tensor) -> Tensor:
    """`image` [B, C, H, W] at the size of `like`, by averaging where it shrinks; itself where it fits."""
    size = like.shape[-2:]
    if image.shape[-2:] == size:
        return image
    return functional.interpolate(image, size, mode="bilinear", align_corners=False, antialias=True)


def _shrunk(image: Tensor, scale: int) -> Tensor:
    return image if scale == 1 else functional.avg_pool2d(image, scale)


def _levelled(ridges: Tensor) -> Tensor:
    """Softened over 5 × 5 pixels, divided by the mean of the values above the 99th percentile, and bent to 0…1.

    Where even that mean is faint there are no edges, and noise is not raised to the height of one. Bent, as
    r² / (r² + h²), a ridge half as high as the strongest ones counts half.
    """
    line = torch.tensor([1.0, 4.0, 6.0, 4.0, 1.0]).to(ridges) / 16
    soft = functional.pad(ridges, (2, 2, 2, 2), mode="replicate")
    soft = functional.conv2d(soft, torch.outer(line, line)[None, None])
    flat = soft.flatten(1)
    top = flat.topk(max(1, round(_TOP_SHARE * flat.shape[1])), dim=1).values.mean(dim=1)
    squares = (soft / top.clamp(min=_LEAST_PEAK).view(-1, 1, 1, 1)).square()
    return squares / (squares + _HALF**2)
