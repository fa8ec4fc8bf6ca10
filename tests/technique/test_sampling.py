from __future__ import annotations

import numpy as np
import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from torch import Tensor

from darkroom.technique.cfg import true_cfg
from darkroom.technique.latents import denormalise, normalise, pack, unpack
from darkroom.technique.sampling import Prediction, sample
from darkroom.technique.schedule import LIGHTNING_SHIFT, Schedule

SCHEDULE = Schedule(0.5, 0.9, 256, 8192, 0.02)


def noise() -> Tensor:
    return torch.randn(2, 6, 8, generator=torch.Generator().manual_seed(0))


def last(denoise, start: Tensor, sigmas: Tensor) -> Tensor:  # type: ignore[no-untyped-def]
    for step in sample(denoise, start, sigmas):
        latents = step.latents
    return latents


def test_a_straight_flow_lands_on_its_clean_latents_in_any_number_of_steps() -> None:
    start, clean = noise(), torch.ones(2, 6, 8)
    for steps in (1, 3, 17):
        end = last(lambda x, sigma: Prediction(start - clean), start, SCHEDULE.sigmas(steps, 64))
        torch.testing.assert_close(end, clean, atol=1e-5, rtol=0)


def test_without_a_shift_every_step_is_diffusers_euler_step_bit_for_bit() -> None:
    scheduler = FlowMatchEulerDiscreteScheduler(
        use_dynamic_shifting=True, base_shift=0.5, max_shift=0.9, max_image_seq_len=8192, shift_terminal=0.02
    )
    scheduler.set_timesteps(sigmas=np.linspace(1.0, 1 / 8, 8), mu=SCHEDULE.mu(64))
    theirs = noise()
    for timestep, step in zip(
        scheduler.timesteps,
        sample(lambda x, sigma: Prediction(torch.sin(x) * 3), noise(), SCHEDULE.sigmas(8, 64)),
        strict=True,
    ):
        theirs = scheduler.step(torch.sin(theirs) * 3, timestep, theirs, return_dict=False)[0]
        assert torch.equal(step.latents, theirs)


@pytest.mark.parametrize("tokens", [64, 96, 4096, 10_000])
@pytest.mark.parametrize("steps", [2, 4, 8, 50, 200])
def test_noise_levels_are_diffusers_bit_for_bit(steps: int, tokens: int) -> None:
    scheduler = FlowMatchEulerDiscreteScheduler(
        use_dynamic_shifting=True, base_shift=0.5, max_shift=0.9, max_image_seq_len=8192, shift_terminal=0.02
    )
    scheduler.set_timesteps(sigmas=np.linspace(1.0, 1 / steps, steps), mu=SCHEDULE.mu(tokens))
    assert torch.equal(SCHEDULE.sigmas(steps, tokens), scheduler.sigmas)


def test_one_step_goes_from_pure_noise_to_clean() -> None:
    assert SCHEDULE.sigmas(1, 64).tolist() == [1.0, 0.0]


def test_a_fixed_shift_is_the_same_for_every_size_and_has_no_terminal() -> None:
    fixed = SCHEDULE.fixed(LIGHTNING_SHIFT)
    assert torch.equal(fixed.sigmas(4, 64), fixed.sigmas(4, 4096))
    # Lightning's published 4-step levels: 3s / (1 + 2s) at s = 1, 3/4, 1/2, 1/4.
    torch.testing.assert_close(fixed.sigmas(4, 64), torch.tensor([1.0, 0.9, 0.75, 0.5, 0.0]), atol=1e-6, rtol=0)


def test_a_shift_moves_the_clean_latents_and_keeps_the_noise() -> None:
    start, clean, shift = noise(), torch.zeros(2, 6, 8), torch.full((2, 6, 8), 0.25)
    sigmas = torch.tensor([1.0, 0.4])
    step = next(iter(sample(lambda x, sigma: Prediction(start - clean, shift), start, sigmas)))
    torch.testing.assert_close(step.latents, 0.6 * (clean + shift) + 0.4 * start)
    torch.testing.assert_close(step.x0(), clean + shift)


def test_guidance_keeps_the_conditional_length_of_every_token() -> None:
    conditional, unconditional = noise(), noise().flip(0)
    guided = true_cfg(conditional, unconditional, 4.0)
    torch.testing.assert_close(guided.norm(dim=-1), conditional.norm(dim=-1))


def test_guidance_between_equal_branches_changes_nothing() -> None:
    torch.testing.assert_close(true_cfg(noise(), noise(), 4.0), noise())


def test_packing_and_normalising_are_undone_exactly() -> None:
    latents = torch.randn(2, 16, 1, 6, 10, generator=torch.Generator().manual_seed(1))
    assert torch.equal(unpack(pack(latents), 3, 5), latents)
    mean, std = torch.randn(16), torch.rand(16) + 0.5
    torch.testing.assert_close(denormalise(normalise(latents, mean, std), mean, std), latents)
