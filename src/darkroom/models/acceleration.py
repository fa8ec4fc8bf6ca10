"""Lossy acceleration, on request only: some steps are computed, the others extrapolated from them.

TaylorSeer (https://huggingface.co/papers/2503.06923) as diffusers has it, in the place of its lite mode: what is kept
and extrapolated is the velocity itself, so that an extrapolated step costs no forward, whatever form the forward has.
It stands behind classifier-free guidance, so that one state serves both branches and prompts of any length.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from diffusers import CacheMixin, TaylorSeerCacheConfig
from torch import Tensor

from darkroom.models.editor import Conditioning, Editor
from darkroom.technique.sampling import Denoise, Prediction, sample

Acceleration = Literal["none", "cache", "aggressive"]

WARM_UP_STEPS = 3
"""The first steps lay out the picture and differ most; they are always computed."""

INTERVALS: Mapping[str, int] = {"cache": 2, "aggressive": 4}
"""Of so many steps after the warm-up one is computed."""


class _Velocity(torch.nn.Module, CacheMixin):  # type: ignore[misc]
    """A function of (x, sigma) as a module, which is what diffusers' caches take hold of."""

    def __init__(self, velocity: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.velocity = velocity

    def forward(self, x: Tensor, sigma: Tensor) -> Tensor:
        """The velocity, computed."""
        return self.velocity(x, sigma)


class Accelerated:
    """A denoiser that computes some of its calls and extrapolates the rest. One per sampling: it counts the steps.

    computed: calls that ran the model so far.
    """

    def __init__(self, denoise: Denoise, acceleration: Acceleration) -> None:
        self._denoise = denoise
        self.computed = 0
        self._velocity = _Velocity(self._compute)
        config = TaylorSeerCacheConfig(
            cache_interval=INTERVALS[acceleration],
            disable_cache_before_step=WARM_UP_STEPS,
            max_order=1,
            taylor_factors_dtype=torch.float32,  # bfloat16 would round the differences that it extrapolates
            cache_identifiers=[""],  # the module itself
        )
        CacheMixin.enable_cache(self._velocity, config)

    def denoise(self, x: Tensor, sigma: Tensor) -> Prediction:
        """A `Denoise`: the velocity at (x, sigma), computed or extrapolated from the computed ones."""
        with CacheMixin.cache_context(self._velocity, "velocity"):
            return Prediction(self._velocity(x, sigma))

    def _compute(self, x: Tensor, sigma: Tensor) -> Tensor:
        self.computed += 1
        prediction = self._denoise(x, sigma)
        assert prediction.shift is None, "a guided step cannot be extrapolated"
        return prediction.velocity


@dataclass(frozen=True)
class Measurement:
    """One sampling: its pixels [B, 3, H, W] in -1…1, steps that ran the model, all steps, seconds of denoising."""

    pixels: Tensor
    computed: int
    steps: int
    seconds: float


def measure(
    editor: Editor, conditioning: Conditioning, acceleration: Acceleration, *, steps: int, true_cfg_scale: float = 1.0,
    seed: int = 0,
) -> Measurement:  # fmt: skip
    """One edit per prompt of the conditioning, at the last picture's size; the same seed gives the same noise."""
    width, height = editor.output_size(conditioning.references, None)
    latents = editor.noise([seed + i for i in range(len(conditioning.prompts))], width, height)
    denoise = editor.denoiser(conditioning, width, height, true_cfg_scale)
    accelerated = None if acceleration == "none" else Accelerated(denoise, acceleration)
    sigmas = editor.sigmas(steps, width, height)
    started = time.perf_counter()
    for step in sample(accelerated.denoise if accelerated else denoise, latents, sigmas):
        latents = step.latents
    seconds = time.perf_counter() - started
    computed = accelerated.computed if accelerated else steps
    return Measurement(editor.decode(latents, width, height), computed, steps, seconds)
