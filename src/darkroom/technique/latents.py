"""Latents as the VAE has them, [B, C, 1, H, W], and as the transformer has them, tokens [B, N, 4C]."""

from __future__ import annotations

from torch import Tensor


def pack(latents: Tensor) -> Tensor:
    """[B, C, 1, H, W] (H, W even) -> [B, H/2 * W/2, 4C]: each token is a 2 x 2 patch, rows first."""
    batch, channels, _, height, width = latents.shape
    patches = latents.reshape(batch, channels, height // 2, 2, width // 2, 2).permute(0, 2, 4, 1, 3, 5)
    return patches.reshape(batch, (height // 2) * (width // 2), channels * 4)


def unpack(tokens: Tensor, height: int, width: int) -> Tensor:
    """[B, h * w, 4C] -> [B, C, 1, 2h, 2w] for a grid of `height` h by `width` w tokens; the inverse of `pack`."""
    batch, _, depth = tokens.shape
    patches = tokens.reshape(batch, height, width, depth // 4, 2, 2).permute(0, 3, 1, 4, 2, 5)
    return patches.reshape(batch, depth // 4, 1, height * 2, width * 2)


def normalise(latents: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """The VAE's latents to the transformer's, per channel: (latents - mean) / std; mean and std [C]."""
    return (latents - _per_channel(mean)) / _per_channel(std)


def denormalise(latents: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """The inverse of `normalise`, as diffusers divides by 1/std, so that float32 results are equal bit for bit."""
    return latents / (1.0 / _per_channel(std)) + _per_channel(mean)


def _per_channel(values: Tensor) -> Tensor:
    return values.view(1, -1, 1, 1, 1)
