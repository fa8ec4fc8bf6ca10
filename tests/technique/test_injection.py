from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from darkroom.technique.injection import (
    CaptionWeights,
    HeadConfig,
    InjectionHead,
    caption_loss,
    combined,
    flow_loss,
    inject,
    matched,
    own_alpha,
    random_residual,
    target_of,
    turned,
    zero_loss,
)

CONFIG = HeadConfig(feature_width=24, levels=4, text_width=16, slots=3, rank=8, attention_heads=2)
WIDTH = CONFIG.text_width


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def after_norm(x: Tensor, gain: Tensor) -> Tensor:
    """torch's own RMSNorm with this gain, as the transformer's txt_norm."""
    norm = nn.RMSNorm(WIDTH, eps=1e-12)
    norm.weight = nn.Parameter(gain.to(x.dtype))
    return norm(x).detach()


def degrees(one: Tensor, other: Tensor) -> Tensor:
    return torch.rad2deg(torch.arccos(nn.functional.cosine_similarity(one.double(), other.double(), dim=-1)))


def orthogonal(base: Tensor, gain: Tensor, seed: int = 1) -> Tensor:
    """A residual at a right angle to `base` once the gain is on both."""
    weighted = gain * base
    free = drawn(*base.shape, seed=seed).to(base.dtype)
    free = free - weighted * (free * weighted).sum(-1, keepdim=True) / weighted.square().sum(-1, keepdim=True)
    return 7.0 * free / gain


def test_alpha_1_turns_an_orthogonal_residual_by_45_degrees_after_the_norm() -> None:
    gain = drawn(WIDTH, seed=3).exp().double()
    base = drawn(5, WIDTH).double() * torch.tensor([[0.01], [1.0], [30.0], [2.0], [5.0]])
    residual = orthogonal(base, gain)
    for alpha in (0.25, 1.0, 3.0):
        moved = base + alpha * matched(residual, base, gain)
        angles = degrees(after_norm(moved, gain), after_norm(base, gain))
        torch.testing.assert_close(angles, torch.full_like(angles, math.degrees(math.atan(alpha))))
        assert turned(alpha) == pytest.approx(float(angles[0]))
    assert turned(1.0) == pytest.approx(45.0)


@pytest.mark.parametrize("alpha", [0.3, 1.0, 2.5, -0.5])
def test_any_residual_turns_by_what_the_closed_form_says(alpha: float) -> None:
    gain, base, residual = drawn(WIDTH, seed=3).exp(), drawn(1, WIDTH), drawn(1, WIDTH, seed=4)
    cosine = float(nn.functional.cosine_similarity(gain * base, gain * residual))
    moved = inject(base, residual, [0], alpha, gain)
    expected = abs(turned(alpha, cosine))
    assert float(degrees(after_norm(moved, gain), after_norm(base, gain))) == pytest.approx(expected, abs=1e-2)


def test_the_residuals_own_length_does_not_matter_and_its_sign_does() -> None:
    gain, base, residual = drawn(WIDTH, seed=3).exp(), drawn(2, WIDTH), drawn(2, WIDTH, seed=4)
    torch.testing.assert_close(matched(1e3 * residual, base, gain), matched(residual, base, gain))
    torch.testing.assert_close(matched(-residual, base, gain), -matched(residual, base, gain))
    assert torch.equal(matched(torch.zeros_like(residual), base, gain), torch.zeros_like(residual))


def test_alpha_0_is_the_prompt_bit_for_bit_and_other_tokens_never_move() -> None:
    embeds, residual, gain = drawn(6, WIDTH).bfloat16(), drawn(2, WIDTH, seed=1), torch.ones(WIDTH)
    assert inject(embeds, residual, [1, 4], 0.0, gain) is embeds
    moved = inject(embeds, residual, [1, 4], 0.7, gain)
    still = [0, 2, 3, 5]
    assert torch.equal(moved[still], embeds[still])
    assert moved.dtype == torch.bfloat16
    assert (moved[[1, 4]] != embeds[[1, 4]]).any(-1).all()
    with pytest.raises(ValueError, match="2 slots for 1"):
        inject(embeds, residual, [1], 1.0, gain)


def test_injection_is_the_formula_in_float64() -> None:
    gain, embeds, residual = drawn(WIDTH, seed=3).exp(), drawn(4, WIDTH), drawn(2, WIDTH, seed=4)
    for row, place in enumerate((0, 3)):
        w, e, r = gain.double(), embeds[place].double(), residual[row].double()
        expected = e + 0.8 * r * (w * e).square().mean().sqrt() / (w * r).square().mean().sqrt()
        found = inject(embeds, residual, [0, 3], 0.8, gain)[place]
        torch.testing.assert_close(found.double(), expected, rtol=1e-6, atol=1e-6)


def test_own_alpha_injects_what_the_head_was_trained_for() -> None:
    gain, base, residual = drawn(WIDTH, seed=3).exp(), drawn(1, WIDTH), drawn(1, WIDTH, seed=4)
    alpha = own_alpha(residual, base, gain)
    torch.testing.assert_close(base + alpha * matched(residual, base, gain), base + residual)


# -- the head -----------------------------------------------------------------------------------


def test_the_head_is_its_definition_in_float64() -> None:
    torch.manual_seed(0)
    head = InjectionHead(CONFIG)
    with torch.no_grad():
        head.bias.normal_()
        head.scale.fill_(0.3)
        features = drawn(CONFIG.levels, 5, CONFIG.feature_width, seed=2)
        found = head(features)
        double = head.double()
        x = features.double()
        x = x / x.norm(dim=-1, keepdim=True) * math.sqrt(CONFIG.feature_width)
        tokens = (x @ double.down.weight.T + double.down.bias + double.level[:, None]).reshape(-1, CONFIG.rank)
        key = tokens @ double.key.weight.T + double.key.bias
        value = tokens @ double.value.weight.T + double.value.bias
        pooled = []
        for slot in double.query:
            parts = []
            for part in (slice(0, 4), slice(4, 8)):
                weights = torch.softmax(key[:, part] @ slot[part] / 2.0, dim=0)
                parts.append(weights @ value[:, part])
            pooled.append(torch.cat(parts))
        pooled = torch.stack(pooled)
        expected = double.scale * ((pooled + double.mlp(double.norm(pooled))) @ double.up.weight.T + double.bias)
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-5)


def test_the_order_of_tokens_and_photos_and_their_length_do_not_matter() -> None:
    torch.manual_seed(0)
    head = InjectionHead(CONFIG)
    one, other = drawn(4, 5, 24, seed=1), drawn(4, 3, 24, seed=2)
    together = head(combined([one, other]))
    torch.testing.assert_close(head(combined([9.0 * other, one.flip(1)])), together)
    assert not torch.allclose(head(one), together)


def test_levels_are_told_apart() -> None:
    torch.manual_seed(0)
    head, features = InjectionHead(CONFIG), drawn(4, 5, 24)
    assert not torch.allclose(head(features.flip(0)), head(features), atol=1e-4)


def test_at_qwens_sizes_the_head_is_small() -> None:
    with torch.device("meta"):
        head = InjectionHead(HeadConfig(feature_width=4096, levels=4, text_width=3584))
    assert sum(parameter.numel() for parameter in head.parameters()) < 1.3e6


def test_a_form_that_makes_no_head_is_refused() -> None:
    with pytest.raises(ValueError, match="rank 10"):
        HeadConfig(8, 1, 8, rank=10)
    for size in (0, -1, 2.5, "8"):
        with pytest.raises(ValueError, match="slots is"):
            HeadConfig(8, 1, 8, slots=size)  # type: ignore[arg-type]


# -- objectives ---------------------------------------------------------------------------------


def test_the_caption_objective_is_its_definition_and_0_at_its_target() -> None:
    gain = drawn(WIDTH, seed=3).exp().double()
    base, residual, target = (drawn(3, WIDTH, seed=seed).double() for seed in (0, 1, 2))
    assert float(caption_loss(base, target - base, target, gain)) == pytest.approx(0.0, abs=1e-12)
    parts = []
    for e, r, t in zip(base, residual, target, strict=True):
        p, t = gain * (e + r), gain * t
        length = t.square().mean().sqrt()
        cosine = 1 - p @ t / p.norm() / t.norm()
        mse = ((p - t) / length).square().mean()
        parts.append(0.7 * cosine + 0.3 * mse + 0.05 * (p.square().mean().sqrt() / length - 1) ** 2)
    expected = torch.stack(parts).mean()
    torch.testing.assert_close(caption_loss(base, residual, target, gain), expected)
    only = CaptionWeights(cosine=1.0, mse=0.0, rms=0.0)
    longer = 3 * target - base
    assert float(caption_loss(base, longer, target, gain, only)) == pytest.approx(0.0, abs=1e-12)


def test_a_batch_of_photos_gives_what_each_gives_alone() -> None:
    torch.manual_seed(0)
    head, seen = InjectionHead(CONFIG), drawn(3, CONFIG.levels, 5, CONFIG.feature_width)
    torch.testing.assert_close(head(seen), torch.stack([head(photo) for photo in seen]))


def test_a_caption_is_shared_out_among_the_slots_in_its_order() -> None:
    caption = drawn(6, WIDTH)
    torch.testing.assert_close(target_of(caption, 6), caption)
    torch.testing.assert_close(target_of(caption, 3), (caption[0::2] + caption[1::2]) / 2)
    torch.testing.assert_close(target_of(caption[:2], 4), caption[[0, 0, 1, 1]])
    torch.testing.assert_close(target_of(caption[:4], 6), caption[[0, 0, 1, 2, 2, 3]])  # no slot between two tokens


def test_the_flow_objective_is_0_for_the_true_velocity() -> None:
    x0, noise = drawn(2, 4, 8), drawn(2, 4, 8, seed=1)
    assert float(flow_loss(noise - x0, x0, noise)) == 0
    assert float(flow_loss(noise - x0 + 2, x0, noise)) == pytest.approx(4.0, rel=1e-5)


def test_the_originals_objective_pulls_every_residual_to_nothing() -> None:
    base, residual = drawn(3, WIDTH), drawn(3, WIDTH, seed=1)
    assert float(zero_loss(base, torch.zeros_like(base))) == pytest.approx(0.0, abs=1e-6)
    assert float(zero_loss(base, 0.1 * residual)) < float(zero_loss(base, residual))


def test_random_residuals_depend_on_their_seed_alone() -> None:
    assert torch.equal(random_residual(3, 8, 5), random_residual(3, 8, 5))
    assert not torch.equal(random_residual(3, 8, 5), random_residual(3, 8, 6))
