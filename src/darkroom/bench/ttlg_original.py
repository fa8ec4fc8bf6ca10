"""The published original's guidance, with its faults, as the baseline that a study compares with.

After every step of its window, the last one included, its callback takes the still noisy latents for the picture,
denormalises them by dividing by the deviation, decodes with a clamp, compares a one-scale Sobel magnitude as it is with
the edge map divided by its maximum, takes VGG at the max-pool layers, and moves the latents, in bfloat16, by `lr` times
a gradient of unit norm over all of their values.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from darkroom.models.differentiable import decode_frame
from darkroom.models.editor import TOKEN_PIXELS, Editor
from darkroom.models.perceptual import Perceptual
from darkroom.models.single_frame import single_frame
from darkroom.technique.latents import unpack
from darkroom.technique.losses import gram
from darkroom.technique.sampling import Denoise, Prediction


@dataclass(frozen=True)
class Original:
    """The original's settings under its own names; the defaults are those that it recommends."""

    edge_scale: float = 1.0
    gram_scale: float = 0.2
    lr: float = 0.05
    last_steps: int = 10


def original_guidance(
    denoise: Denoise,
    settings: Original,
    editor: Editor,
    perceptual: Perceptual,
    edges: Tensor,
    init: Tensor,
    sigmas: Tensor,
) -> Denoise:
    """`denoise` with the original's move of the latents after each step, written as the shift that has its effect.

    edges: [1, 1, H, W] in 0…1; init: [1, 3, H, W] in -1…1, both of the output's size.
    """
    height, width = init.shape[-2:]
    vae = single_frame(editor.vae, share=True)
    mean, std = (
        torch.tensor(editor.vae.config[name]).view(1, -1, 1, 1, 1).to(init) for name in ("latents_mean", "latents_std")
    )
    with torch.no_grad():
        grams = [gram(tap) for tap in _pooled(perceptual, init)]
    target = edges / edges.max().clamp(min=1e-8)

    def loss(tokens: Tensor) -> Tensor:
        latents = unpack(tokens, height // TOKEN_PIXELS, width // TOKEN_PIXELS) / std + mean
        pixels = decode_frame(vae, latents).clamp(-1, 1)
        style = sum(
            (gram(tap) - wanted).abs().mean() for tap, wanted in zip(_pooled(perceptual, pixels), grams, strict=True)
        )
        return settings.edge_scale * (_sobel(pixels) - target).abs().mean() + settings.gram_scale * style

    def with_callback(x: Tensor, sigma: Tensor) -> Prediction:
        prediction = denoise(x, sigma)
        step = int((sigmas[:-1] - sigma).abs().argmin())
        if step < len(sigmas) - 1 - settings.last_steps:
            return prediction
        after = sigmas[step + 1]
        stepped = x + (after - sigma) * prediction.velocity
        with torch.enable_grad():
            leaf = stepped.detach().requires_grad_()
            gradient = torch.autograd.grad(loss(leaf), leaf)[0]
        move = settings.lr * gradient / (gradient.norm() + 1e-8)
        moved = (stepped.bfloat16() - move.bfloat16()).to(x.dtype)
        return Prediction(prediction.velocity, (moved - stepped) / (1 - after))

    return with_callback


def _pooled(perceptual: Perceptual, pixels: Tensor) -> list[Tensor]:
    """The max-pool layer after each tap: VGG16's 4, 9, 16 and 23."""
    return [functional.max_pool2d(tap, 2) for tap in perceptual.features(pixels)]


def _sobel(pixels: Tensor) -> Tensor:
    """[B, 1, H, W]: the magnitude of the lightness in 0…1, as it comes."""
    lightness: Any = (pixels.mean(dim=1, keepdim=True) + 1) / 2
    kernel = torch.tensor([[-1.0, 0.0, 1.0], [-2.0, 0.0, 2.0], [-1.0, 0.0, 1.0]]).to(pixels)
    slopes = functional.conv2d(lightness, torch.stack([kernel, kernel.T])[:, None], padding=1)
    return (slopes.square().sum(dim=1, keepdim=True) + 1e-6).sqrt()
