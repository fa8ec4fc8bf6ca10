"""Laws of the bridge: identity until trained, weights that are weights, gradients, sizes, names for what is wrong."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from darkroom.technique.bridge import BridgeConfig, VisionBridge, distillation_loss, edit_flow_loss, parameters_of, rms

SMALL = BridgeConfig(baseline_dim=12, extractor_dim=8, rank=5, key_dim=4)
FORMS = [
    SMALL,
    replace(SMALL, fusion="mlp"),
    replace(SMALL, shared_up=True),
    replace(SMALL, levels=1),
    replace(SMALL, levels=4, shared_up=True),
]


def drawn(config: BridgeConfig, cells: int = 6, seed: int = 0) -> tuple[Tensor, list[Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    baseline = torch.randn(cells, config.baseline_dim, generator=generator, dtype=torch.float64)
    levels = torch.randn(config.levels, cells, config.extractor_dim, generator=generator, dtype=torch.float64)
    return baseline, list(levels)


def trained(config: BridgeConfig) -> VisionBridge:
    """A bridge whose gate is open, in float64."""
    torch.manual_seed(1)
    bridge = VisionBridge(config).double()
    if bridge.gate is not None:
        torch.nn.init.normal_(bridge.gate)
    return bridge


def test_at_the_real_sizes_it_stays_within_its_budget() -> None:
    assert 5_000_000 < parameters_of(BridgeConfig(3584, 4096)) <= 5_250_000
    assert parameters_of(BridgeConfig(3584, 4096, fusion="mlp")) <= 5_250_000
    assert parameters_of(BridgeConfig(3584, 4096, shared_up=True, rank=320)) <= 5_250_000


@pytest.mark.parametrize("config", FORMS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_untrained_it_is_the_identity_bit_for_bit(config: BridgeConfig, dtype: torch.dtype) -> None:
    baseline, levels = drawn(config)
    fused, _ = VisionBridge(config)(baseline.to(dtype), [level.to(dtype) for level in levels])
    assert fused.dtype == dtype
    assert torch.equal(fused, baseline.to(dtype))


def test_attention_is_the_textbooks() -> None:
    """Written out cell by cell, from the module's weights alone."""
    bridge = trained(SMALL)
    baseline, levels = drawn(SMALL)
    fused, weights = bridge(baseline, levels)
    assert weights is not None
    size = baseline.square().mean().sqrt()
    for cell in range(len(baseline)):
        query = bridge.fusion.query.weight @ functional.layer_norm(baseline[cell], (12,), bridge.fusion.norm.weight)
        inner = []
        for number, level in enumerate(levels):
            normed = functional.layer_norm(level[cell], (8,), bridge.norms[number].weight)
            inner.append(functional.gelu(bridge.down[number].weight @ normed + bridge.down[number].bias))
        scores = torch.stack([query @ (inner[n] @ bridge.fusion.keys[n]) / 2 for n in range(3)])
        expected = torch.exp(scores) / torch.exp(scores).sum()
        torch.testing.assert_close(weights[cell], expected)
        said = sum(expected[n] * (inner[n] @ bridge.fusion.up[n]) for n in range(3))
        torch.testing.assert_close(fused[cell], baseline[cell] + bridge.gate * said * size)


@pytest.mark.parametrize("config", FORMS)
def test_weights_of_the_levels_sum_to_one_and_mlp_has_none(config: BridgeConfig) -> None:
    _, weights = trained(config)(*drawn(config))
    if config.fusion == "mlp":
        assert weights is None
    else:
        assert weights is not None
        torch.testing.assert_close(weights.sum(-1), torch.ones(6, dtype=torch.float64))


@pytest.mark.parametrize("config", FORMS)
def test_gradients_are_those_of_finite_differences(config: BridgeConfig) -> None:
    bridge, (baseline, levels) = trained(config), drawn(config, cells=2)
    names, values = zip(*bridge.named_parameters(), strict=True)

    def fused(*weights: Tensor) -> Tensor:
        return torch.func.functional_call(bridge, dict(zip(names, weights, strict=True)), (baseline, levels))[0]

    assert torch.autograd.gradcheck(fused, tuple(v.detach().requires_grad_() for v in values))


def test_from_the_identity_the_gate_learns_first_and_then_all_the_rest() -> None:
    torch.manual_seed(0)
    bridge, (baseline, levels) = VisionBridge(SMALL).double(), drawn(SMALL)
    target = torch.randn_like(baseline)
    distillation_loss(bridge(baseline, levels)[0], target).backward()
    assert bridge.gate.grad.abs().min() > 0
    assert bridge.down[0].weight.grad.abs().max() == 0
    optimizer = torch.optim.SGD(bridge.parameters(), lr=0.1)
    optimizer.step()
    distillation_loss(bridge(baseline, levels)[0], target).backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in bridge.parameters())


def test_pictures_together_are_fused_as_each_alone() -> None:
    bridge = trained(SMALL)
    (one, ones), (two, twos) = drawn(SMALL, seed=1), drawn(SMALL, seed=2)
    together, _ = bridge(torch.stack([one, 3 * two]), [torch.stack(pair) for pair in zip(ones, twos, strict=True)])
    torch.testing.assert_close(together[0], bridge(one, ones)[0])
    torch.testing.assert_close(together[1], bridge(3 * two, twos)[0])
    assert rms(torch.stack([one, two])).shape == (2, 1, 1)


def test_without_the_residual_the_baseline_is_only_a_query() -> None:
    bridge = trained(replace(SMALL, use_residual=False, fusion="mlp"))
    baseline, levels = drawn(SMALL)
    assert bridge.gate is None
    torch.testing.assert_close(bridge(baseline, levels)[0], bridge(-baseline, levels)[0])


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (lambda b, ls: (b[:, :11], ls), "leads to width 12, the tokens have 11"),
        (lambda b, ls: (b, ls[:2]), "takes 3 levels, the vision model gives 2"),
        (lambda b, ls: (b, [level[:, :7] for level in ls]), "levels of width 8, not 7"),
        (lambda b, ls: (b, [level[:5] for level in ls]), "bring them to one grid"),
    ],
)
def test_what_does_not_fit_is_named_with_both_sizes(wrong: object, words: str) -> None:
    baseline, levels = drawn(SMALL)
    with pytest.raises(ValueError, match=words):
        trained(SMALL)(*wrong(baseline, levels))  # type: ignore[operator]


@pytest.mark.parametrize("change", [{"fusion": "sum"}, {"rank": 0}, {"levels": 0}])
def test_what_makes_no_bridge_is_refused(change: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=next(iter(change))):
        replace(SMALL, **change)  # type: ignore[arg-type]


def test_distillation_counts_in_sizes_of_the_target() -> None:
    target = torch.randn(5, 7)
    assert distillation_loss(target, target) == 0
    torch.testing.assert_close(distillation_loss(torch.zeros(5, 7), target), torch.tensor(1.0))
    torch.testing.assert_close(distillation_loss(3 * target, target), torch.tensor(4.0))


def test_half_of_the_flow_loss_belongs_to_what_the_edit_changes() -> None:
    source, noise = torch.zeros(1, 4, 2), torch.randn(1, 4, 2)
    target = source.clone()
    target[0, 3] = 1.0
    velocity = noise - target
    assert edit_flow_loss(velocity, source, target, noise) == 0
    for cell, share in ((0, 1 / 8), (3, 1 / 8 + 1 / 2)):
        wrong = velocity.clone()
        wrong[0, cell] += 1.0
        torch.testing.assert_close(edit_flow_loss(wrong, source, target, noise), torch.tensor(share))
    plain = edit_flow_loss(velocity + 1, source[:, :3], target, noise)
    torch.testing.assert_close(plain, torch.tensor(1.0))
    torch.testing.assert_close(edit_flow_loss(velocity + 1, target, target, noise), torch.tensor(0.5))
