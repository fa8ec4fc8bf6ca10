"""Guidance against the formula written out by hand, in float64."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from darkroom.errors import InvalidInput
from darkroom.technique.guidance import GuidanceFailed, GuidedStep, Term, Through, guided
from darkroom.technique.sampling import Denoise, Prediction, sample
from darkroom.technique.windows import WINDOWS, Window, guided_steps

SIGMAS = torch.linspace(1, 0, 7, dtype=torch.float64)
TARGET = torch.randn(1, 3, 4, 5, generator=torch.Generator().manual_seed(7), dtype=torch.float64)
MIXER = torch.randn(3, 3, generator=torch.Generator().manual_seed(8), dtype=torch.float64)


def noise(batch: int = 2) -> Tensor:
    return torch.randn(batch, 20, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def denoise(x: Tensor, sigma: Tensor) -> Prediction:
    return Prediction(torch.sin(x @ MIXER.to(x)) + sigma * x)


def decode(tokens: Tensor, size: int | None) -> Tensor:
    assert size is None
    return torch.tanh(tokens).transpose(1, 2).reshape(-1, 3, 4, 5)


def near(pixels: Tensor) -> Tensor:
    return (pixels - TARGET).square().mean(dim=(1, 2, 3))


def grey(pixels: Tensor) -> Tensor:
    return pixels.std(dim=1).mean(dim=(1, 2))


def terms(*steps: int) -> list[Term]:
    return [Term("near", near, 1.0, frozenset(steps)), Term("grey", grey, 0.3, frozenset(steps[1:]))]


def last(denoiser: Denoise, start: Tensor, sigmas: Tensor = SIGMAS) -> Tensor:
    for step in sample(denoiser, start, sigmas):
        latents = step.latents
    return latents


def by_hand(start: Tensor, lr: float, iterations: int, through: Through) -> Tensor:
    """techniques.md's update, one picture at a time, its Jacobian as a full matrix."""
    ends = []
    for x in start.split(1):
        for step in range(len(SIGMAS) - 1):
            sigma, after = SIGMAS[step], SIGMAS[step + 1]
            velocity = denoise(x, sigma).velocity
            x0 = x - sigma * velocity
            eps = x + (1 - sigma) * velocity
            moved = x0.clone()
            jacobian = torch.autograd.functional.jacobian(lambda z, s=sigma: denoise(z, s).velocity, x)
            matrix = jacobian.reshape(x.numel(), x.numel())  # type: ignore[union-attr]
            for _ in range(iterations):
                total = torch.zeros_like(x)
                for term in terms(1, 3, 4):
                    if step in term.steps:
                        leaf = moved.clone().requires_grad_()
                        g = torch.autograd.grad(term.loss(decode(leaf, None)).sum(), leaf)[0]
                        if through == "transformer":
                            g = g - sigma * (matrix.T @ g.flatten()).view_as(g)
                        total += term.scale * g / g.square().mean().sqrt()
                moved = moved - lr * moved.square().mean().sqrt() * total
            x = (1 - after) * moved + after * eps
        ends.append(x)
    return torch.cat(ends)


@pytest.mark.parametrize("through", ["vae", "transformer"])
@pytest.mark.parametrize("iterations", [1, 3])
def test_the_guided_run_is_the_formula(iterations: int, through: Through) -> None:
    wrapped = guided(denoise, terms(1, 3, 4), decode, SIGMAS, lr=0.05, iterations=iterations, through=through)
    torch.testing.assert_close(
        last(wrapped, noise()), by_hand(noise(), 0.05, iterations, through), rtol=1e-9, atol=1e-9
    )


def test_the_velocity_stays_untouched() -> None:
    wrapped = guided(denoise, terms(1, 3), decode, SIGMAS, lr=0.05)
    for step in (0, 1, 2):
        assert torch.equal(wrapped(noise(), SIGMAS[step]).velocity, denoise(noise(), SIGMAS[step]).velocity)
    assert wrapped(noise(), SIGMAS[1]).shift is not None
    assert wrapped(noise(), SIGMAS[2]).shift is None


@pytest.mark.parametrize("nothing", ["scale", "lr", "steps", "terms"])
def test_guidance_that_cannot_move_is_the_denoiser_itself(nothing: str) -> None:
    scale, lr, steps = (
        float(nothing != "scale"),
        0.1 * (nothing != "lr"),
        frozenset({1} - {1} if nothing == "steps" else {1}),
    )
    chosen = [] if nothing == "terms" else [Term("near", near, scale, steps)]
    assert guided(denoise, chosen, decode, SIGMAS, lr=lr) is denoise


def test_a_picture_in_a_batch_is_moved_as_alone() -> None:
    wrapped = guided(denoise, terms(1, 3, 4), decode, SIGMAS, lr=0.05, iterations=2)
    together = last(wrapped, noise())
    torch.testing.assert_close(together[:1], last(wrapped, noise()[:1]), rtol=1e-10, atol=1e-10)


def test_lr_is_the_rms_of_the_step_relative_to_the_latents() -> None:
    steps: list[GuidedStep] = []
    last(guided(denoise, terms(2), decode, SIGMAS, lr=0.04, report=steps.append), noise(1))
    assert [step.step for step in steps] == [2]
    assert steps[0].relative_step == pytest.approx(0.04, rel=1e-6)
    assert steps[0].sigma == pytest.approx(float(SIGMAS[2]))
    assert steps[0].seconds > 0


def test_every_iteration_lowers_the_loss() -> None:
    steps: list[GuidedStep] = []
    last(guided(denoise, terms(0, 1, 2, 3, 4), decode, SIGMAS, lr=0.02, iterations=3, report=steps.append), noise())
    plain = near(decode(last(denoise, noise()), None)).mean()
    wrapped = guided(denoise, terms(0, 1, 2, 3, 4), decode, SIGMAS, lr=0.02, iterations=3)
    assert near(decode(last(wrapped, noise()), None)).mean() < 0.9 * plain
    assert set(steps[0].losses) == {"near"}
    assert set(steps[1].losses) == {"near", "grey"}


def test_a_zero_gradient_is_skipped_and_a_faint_one_is_not() -> None:
    def silent(pixels: Tensor) -> Tensor:
        return pixels.sum(dim=(1, 2, 3)) * 0

    def faint(pixels: Tensor) -> Tensor:
        return near(pixels) * 1e-30

    def shift(loss: Callable[[Tensor], Tensor]) -> Tensor:
        chosen = [Term("a", near, 1.0, frozenset({1})), Term("b", loss, 1.0, frozenset({1}))]
        found = guided(denoise, chosen, decode, SIGMAS, lr=0.05)(noise().float(), SIGMAS[1].float()).shift
        assert found is not None
        return found

    torch.testing.assert_close(shift(faint), 2 * shift(silent), rtol=1e-3, atol=1e-6)


def test_a_loss_that_ignores_the_picture_moves_nothing() -> None:
    chosen = [Term("blind", lambda pixels: torch.ones(len(pixels), requires_grad=True) * 2, 1.0, frozenset({1}))]
    found = guided(denoise, chosen, decode, SIGMAS, lr=0.05)(noise(), SIGMAS[1]).shift
    assert found is not None
    assert not found.any()


@pytest.mark.parametrize(
    ("broken", "sentence"),
    [
        (lambda pixels: near(pixels) * math.nan, "the odd loss is not finite at step 3"),
        (
            lambda pixels: (pixels - pixels).sum(dim=(1, 2, 3)).sqrt(),
            "the gradient of the odd loss is not finite at step 3",
        ),
    ],
)
def test_what_is_not_finite_is_named_with_its_step(broken: Callable[[Tensor], Tensor], sentence: str) -> None:
    chosen = [Term("odd", broken, 1.0, frozenset({3}))]
    with pytest.raises(GuidanceFailed, match=sentence) as caught:
        last(guided(denoise, chosen, decode, SIGMAS, lr=0.05), noise())
    assert caught.value.step == 3


def test_a_network_that_breaks_is_named_too() -> None:
    chosen = [Term("near", near, 1.0, frozenset({1}))]
    with pytest.raises(GuidanceFailed, match="the predicted picture is not finite at step 1"):
        guided(lambda x, sigma: Prediction(x / 0), chosen, decode, SIGMAS, lr=0.05)(noise(), SIGMAS[1])


def test_bfloat16_latents_are_moved_in_float32() -> None:
    chosen = [Term("near", lambda pixels: near(pixels.double()), 1.0, frozenset({1}))]
    found = guided(denoise_low, chosen, decode, SIGMAS, lr=1e-4)(noise().bfloat16(), SIGMAS[1].bfloat16()).shift
    assert found is not None
    assert found.dtype == torch.float32
    assert found.abs().max() > 0


def denoise_low(x: Tensor, sigma: Tensor) -> Prediction:
    return Prediction(torch.sin(x) + sigma * x)


def test_windows_by_noise_level_and_never_the_last_step() -> None:
    sigmas = torch.linspace(1, 0, 11)
    assert guided_steps(sigmas, Window(0.85, 0.25)) == {2, 3, 4, 5, 6, 7}
    assert guided_steps(sigmas, Window(1.0, 0.0)) == set(range(9))
    assert guided_steps(torch.tensor([1.0, 0.0]), Window(1.0, 0.0)) == frozenset()
    assert set(WINDOWS) == {"edge", "gram", "temporal"}


def test_steps_that_are_asked_for_win_over_the_window() -> None:
    sigmas, window = torch.linspace(1, 0, 11), Window(0.85, 0.25)
    assert guided_steps(sigmas, window, start_step=7) == {7, 8}
    assert guided_steps(sigmas, window, end_step=1) == {0, 1}
    assert guided_steps(sigmas, window, start_step=3, end_step=3) == {3}
    assert guided_steps(sigmas, window, last_steps=4) == {6, 7, 8}
    assert guided_steps(sigmas, window, last_steps=4, end_step=7) == {6, 7}
    assert guided_steps(sigmas, window, last_steps=1) == frozenset()
    assert guided_steps(sigmas, window, every=4) == {2, 6}
    assert guided_steps(sigmas, window, start_step=0, every=4) == {0, 4, 8}


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"start_step": 4, "end_step": 3}, "start_step"),
        ({"start_step": 10}, "start_step"),
        ({"end_step": -1}, "end_step"),
        ({"last_steps": 11}, "last_steps"),
        ({"last_steps": 0}, "last_steps"),
        ({"every": 0}, "every"),
    ],
)
def test_an_impossible_range_names_its_field(options: dict[str, int], field: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        guided_steps(torch.linspace(1, 0, 11), Window(1.0, 0.0), **options)
    assert caught.value.field == field
