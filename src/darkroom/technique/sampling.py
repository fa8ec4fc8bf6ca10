"""Euler sampling of a flow as a generator: progress, cancellation and previews belong to the caller."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Prediction:
    """What a denoiser says at (x, sigma).

    velocity: [B, N, C], noise - x0.
    shift: [B, N, C] or None; guidance's displacement of the predicted x0 (TTLG). None is no guidance.
    """

    velocity: Tensor
    shift: Tensor | None = None


Denoise = Callable[[Tensor, Tensor], Prediction]
"""(x [B, N, C], sigma []) -> Prediction."""


@dataclass(frozen=True)
class SampleStep:
    """One finished step: latents now stand at `sigma_next`; `x0` is the prediction they were moved by."""

    index: int
    total: int
    sigma: float
    sigma_next: float
    latents: Tensor
    x0: Callable[[], Tensor]


@torch.no_grad()
def sample(denoise: Denoise, noise: Tensor, sigmas: Tensor) -> Iterator[SampleStep]:
    """Integrate from noise to latents, yielding after every step; the last step's latents are the result.

    noise: [B, N, C], kept in its dtype throughout (float32 keeps small steps from being rounded away).
    sigmas: [T + 1] float32, falling from about 1 to exactly 0.

    Without a shift this is the plain Euler step x + (sigma' - sigma) * v, bit for bit as diffusers'
    FlowMatchEulerDiscreteScheduler takes it; with one, x also moves by (1 - sigma') * shift, which is
    re-noising the shifted x0 with the same predicted noise.
    """
    x, total = noise, len(sigmas) - 1
    for index in range(total):
        sigma, sigma_next = sigmas[index], sigmas[index + 1]
        before, prediction = x, denoise(x, sigma)
        x = x + (sigma_next - sigma) * prediction.velocity.to(x.dtype)
        if prediction.shift is not None:
            x = x + (1 - sigma_next) * prediction.shift.to(x.dtype)
        yield SampleStep(index, total, float(sigma), float(sigma_next), x, _x0(before, sigma, prediction))


def _x0(x: Tensor, sigma: Tensor, prediction: Prediction) -> Callable[[], Tensor]:
    """The predicted clean latents, computed only where somebody looks."""

    def clean() -> Tensor:
        x0 = x - sigma * prediction.velocity
        return x0 if prediction.shift is None else x0 + prediction.shift

    return clean
