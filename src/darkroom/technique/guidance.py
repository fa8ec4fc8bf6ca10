"""TTLG, test-time loss guidance: a denoiser whose predicted clean latents are moved downhill on losses of its picture.

Guidance wraps the denoiser and fills in `Prediction.shift`; the sampler stays ignorant of it. Once per guided step,
`iterations` times, with k over the losses that guide this step:

    x0  = x - sigma * v
    g_k = gradient of L_k(decode(x0)) with respect to x0
    x0  = x0 - lr * rms(x0) * sum_k s_k * g_k / rms(g_k)

so `lr` is a step relative to the latents' own size and each scale weighs its own loss. The sampler then re-noises the
moved x0 with the untouched predicted noise.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Literal

import torch
from torch import Tensor

from darkroom.technique.losses import Loss
from darkroom.technique.sampling import Denoise, Prediction

Through = Literal["vae", "transformer"]
"""How far gradients go back: through the decoder only (the network's Jacobian is dropped, as FlowChef does), or on
through the transformer, (I - sigma * J_v)^T g."""

Decode = Callable[[Tensor, int | None], Tensor]
"""(x0 [B, N, C], longest side in pixels or None for the picture's own) -> pixels [B, 3, H, W] in about -1…1, with
gradients and without a clamp, which would kill them at saturated pixels."""


@dataclass(frozen=True)
class Term:
    """One loss of the guidance.

    scale: its weight, 0 and above. steps: where it guides, counted from 0 (technique.windows).
    size: the longest side in pixels at which it looks at the picture; None is the picture's own size.
    """

    name: str
    loss: Loss
    scale: float
    steps: frozenset[int]
    size: int | None = None


@dataclass(frozen=True)
class GuidedStep:
    """What guidance did at one step.

    losses: the mean over the batch, by term, before the first iteration moved anything.
    relative_step: rms(shift) / rms(x0). seconds: wall clock of the guidance alone.
    """

    step: int
    sigma: float
    losses: Mapping[str, float]
    relative_step: float
    seconds: float


class GuidanceFailed(ArithmeticError):
    """The predicted latents, a loss or its gradient are not finite at `step` (counted from 0)."""

    def __init__(self, what: str, step: int) -> None:
        super().__init__(f"{what} is not finite at step {step}")
        self.what, self.step = what, step


def guided(
    denoise: Denoise,
    terms: Sequence[Term],
    decode: Decode,
    sigmas: Tensor,
    *,
    lr: float,
    iterations: int = 1,
    through: Through = "vae",
    report: Callable[[GuidedStep], None] | None = None,
) -> Denoise:
    """`denoise` with a shift at the steps that `terms` name; `denoise` itself where nothing would ever move.

    sigmas: the run's [T + 1] noise levels, by which a step is recognised. lr: RMS step relative to x0's, per unit of
    scale and iteration. report: called once per guided step. With `through` "transformer" the denoiser must let
    gradients pass. Raises GuidanceFailed when called, at the step where a loss or gradient is not finite.
    """
    working = [term for term in terms if term.scale > 0 and term.steps]
    if not working or lr == 0:
        return denoise

    def with_guidance(x: Tensor, sigma: Tensor) -> Prediction:
        step = _index(sigmas, sigma)
        active = [term for term in working if step in term.steps]
        if not active:
            return denoise(x, sigma)
        prediction, x0, pull_back = _predict(denoise, x, sigma, through)
        # Looking at the prediction also waits for it, so that the clock below sees the guidance alone.
        _finite(x0, "the predicted picture", step)
        begun = time.perf_counter()
        shift, losses = _descend(x0, active, decode, pull_back, lr, iterations, step)
        if report is not None:
            relative = float(rms(shift).mean() / rms(x0).mean())
            report(GuidedStep(step, float(sigma), losses, relative, time.perf_counter() - begun))
        return Prediction(prediction.velocity, shift)

    return with_guidance


def _predict(
    denoise: Denoise, x: Tensor, sigma: Tensor, through: Through
) -> tuple[Prediction, Tensor, Callable[[Tensor], Tensor]]:
    """The prediction, its x0 in float32 or better, and what carries a gradient at x0 back to where it is taken."""
    if through == "vae":
        prediction = denoise(x, sigma)
        return prediction, _x0(x, sigma, prediction.velocity), lambda gradient: gradient
    with torch.enable_grad():
        start = x.detach().requires_grad_()
        prediction = denoise(start, sigma)
        x0 = _x0(start, sigma, prediction.velocity)

    def pull_back(gradient: Tensor) -> Tensor:
        return torch.autograd.grad(x0, start, gradient.to(x0), retain_graph=True)[0]

    return Prediction(prediction.velocity.detach()), x0.detach(), pull_back


def _x0(x: Tensor, sigma: Tensor, velocity: Tensor) -> Tensor:
    # float32 at least: a guided step is small beside x0 and would be rounded away in bfloat16.
    dtype = torch.promote_types(x.dtype, torch.float32)
    return x.to(dtype) - sigma.to(dtype) * velocity.to(dtype)


def _descend(
    x0: Tensor,
    terms: Sequence[Term],
    decode: Decode,
    pull_back: Callable[[Tensor], Tensor],
    lr: float,
    iterations: int,
    step: int,
) -> tuple[Tensor, dict[str, float]]:
    """The shift [B, N, C] after `iterations` moves, and the losses before the first."""
    shift, first = torch.zeros_like(x0), {}
    for iteration in range(iterations):
        here, move = x0 + shift, torch.zeros_like(x0)
        for term, value, gradient in _gradients(here, terms, decode, step):
            gradient = pull_back(gradient)
            _finite(gradient, f"the gradient of the {term.name} loss", step)
            move = move + term.scale * _unit(gradient)
            if iteration == 0:
                first[term.name] = value
        shift = shift - lr * rms(here) * move
    return shift, first


def _gradients(x0: Tensor, terms: Sequence[Term], decode: Decode, step: int) -> list[tuple[Term, float, Tensor]]:
    """Per term its loss and its gradient at x0; terms of one size share a decode."""
    found: list[tuple[Term, float, Tensor]] = []
    by_size = sorted(terms, key=_size)
    for _, group in groupby(by_size, key=_size):
        sharing = list(group)
        with torch.enable_grad():
            leaf = x0.detach().requires_grad_()
            pixels = decode(leaf, sharing[0].size)
            losses = [term.loss(pixels) for term in sharing]
        for number, (term, loss) in enumerate(zip(sharing, losses, strict=True)):
            _finite(loss, f"the {term.name} loss", step)
            each, more = torch.ones_like(loss), number + 1 < len(sharing)
            gradient = torch.autograd.grad(loss, leaf, each, retain_graph=more, materialize_grads=True)[0]
            found.append((term, float(loss.detach().mean()), gradient))
    return found


def _size(term: Term) -> float:
    return math.inf if term.size is None else term.size


def _unit(gradient: Tensor) -> Tensor:
    """Each picture's gradient at RMS 1; one of zero stays zero."""
    # By its largest value first: squares of small gradients would underflow in float32.
    peak = gradient.abs().amax(dim=(1, 2), keepdim=True)
    level = gradient / torch.where(peak > 0, peak, torch.ones_like(peak))
    return level / torch.where(peak > 0, rms(level), torch.ones_like(peak))


def rms(values: Tensor) -> Tensor:
    """[B, N, C] -> [B, 1, 1]: root mean square per picture."""
    return values.square().mean(dim=(1, 2), keepdim=True).sqrt()


def _index(sigmas: Tensor, sigma: Tensor) -> int:
    """Which step of the run stands at `sigma`."""
    return int((sigmas[:-1].to(sigma) - sigma).abs().argmin())


def _finite(values: Tensor, what: str, step: int) -> None:
    if not bool(torch.isfinite(values).all()):
        raise GuidanceFailed(what, step)
