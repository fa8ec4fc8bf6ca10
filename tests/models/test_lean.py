"""The lean forward is diffusers' forward."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from diffusers import FirstBlockCacheConfig, QwenImageTransformer2DModel
from torch import Tensor

from darkroom.models import lean, lora
from darkroom.models.forward import Forward
from darkroom.models.lean import Grids
from darkroom.models.levers import Levers
from tests.fakes.loras import random_lora

TIME = torch.tensor(0.37)
GRIDS: Grids = ((8, 8), (6, 8), (4, 12), (10, 4))


def transformer(zero_cond_t: bool) -> Any:
    """Three blocks of the pocket model's width with random weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = QwenImageTransformer2DModel(
            num_layers=3, attention_head_dim=32, num_attention_heads=6, joint_attention_dim=128,
            axes_dims_rope=(8, 12, 12), zero_cond_t=zero_cond_t,
        )  # fmt: skip
    return model.eval().requires_grad_(False)


@pytest.fixture(scope="module", params=[True, False], ids=["zero_cond_t", "plain"])
def model(request: pytest.FixtureRequest) -> Any:
    return transformer(request.param)


def inputs(references: int, batch: int = 1) -> tuple[Tensor, int, Tensor, Tensor, Grids]:
    grids, random = GRIDS[: references + 1], torch.Generator().manual_seed(references)
    count = sum(height * width for height, width in grids)
    return (
        torch.randn(batch, count, 64, generator=random), 64,
        torch.randn(batch, 29, 128, generator=random), TIME, grids,
    )  # fmt: skip


@torch.no_grad()
@pytest.mark.parametrize("levers", [Levers(lean=True), Levers(fold=True), Levers(fold=True, lean=True)])
@pytest.mark.parametrize("references", [1, 2, 3])
def test_one_image_is_diffusers_forward_bit_for_bit_and_a_batch_to_rounding(
    model: Any, levers: Levers, references: int
) -> None:
    ours, theirs = Forward(model, levers), Forward(model, Levers.none())
    assert torch.equal(ours(*inputs(references)), theirs(*inputs(references)))
    batch = inputs(references, 3)
    torch.testing.assert_close(ours(*batch), theirs(*batch), atol=2e-6, rtol=1e-5)


@torch.no_grad()
def test_a_lora_works_as_it_does_in_diffusers_forward(model: Any) -> None:
    ours, theirs = Forward(model, Levers(fold=True, lean=True)), Forward(model, Levers.none())
    plain = ours(*inputs(1))
    with lora.worn(model, [lora.Lora(random_lora(model, 0.2), 0.7, "loras[0].path")]):
        worn = ours(*inputs(1))
        assert torch.equal(worn, theirs(*inputs(1)))
    assert not torch.equal(worn, plain)
    assert torch.equal(ours(*inputs(1)), plain)


def test_gradients_are_diffusers_own_with_and_without_checkpointing(model: Any) -> None:
    def gradient(levers: Levers) -> Tensor:
        tokens, *rest = inputs(2)
        tokens.requires_grad_()
        Forward(model, levers)(tokens, *rest).square().sum().backward()
        assert tokens.grad is not None
        return tokens.grad

    expected = gradient(Levers.none())
    torch.testing.assert_close(gradient(Levers(fold=True, lean=True)), expected, atol=1e-5, rtol=1e-4)
    model.enable_gradient_checkpointing()
    try:
        torch.testing.assert_close(gradient(Levers(fold=True, lean=True)), expected, atol=1e-5, rtol=1e-4)
    finally:
        model.disable_gradient_checkpointing()


@torch.no_grad()
def test_half_precision_agrees_to_its_rounding() -> None:
    model, time = transformer(zero_cond_t=True).to(torch.bfloat16), TIME.to(torch.bfloat16)
    tokens, cells, text, _, grids = inputs(1)
    args = (tokens.bfloat16(), cells, text.bfloat16(), time, grids)
    ours, theirs = Forward(model, Levers(fold=True, lean=True))(*args), Forward(model, Levers.none())(*args)
    assert ours.dtype == torch.bfloat16
    torch.testing.assert_close(ours, theirs, atol=0.05, rtol=0.05)


@torch.no_grad()
def test_the_last_block_computes_nothing_for_tokens_that_nobody_reads(model: Any) -> None:
    rows: dict[str, int] = {}
    last, hooks = model.transformer_blocks[-1], []
    for name, layer in (("query", last.attn.to_q), ("text", last.attn.to_add_out), ("out", model.proj_out)):
        hooks.append(layer.register_forward_hook(lambda _, x, __, name=name: rows.update({name: x[0].shape[1]})))
    Forward(model, Levers(lean=True))(*inputs(2))
    for hook in hooks:
        hook.remove()
    assert rows == {"query": 64, "out": 64}


@torch.no_grad()
def test_both_sides_of_cfg_share_one_computation_of_the_modulation(model: Any) -> None:
    forward, calls = Forward(model, Levers(lean=True)), []
    hook = model.transformer_blocks[0].img_mod.register_forward_hook(lambda *_: calls.append(1))
    assert torch.equal(forward(*inputs(1)), forward(*inputs(1)))
    hook.remove()
    assert calls == [1]


@torch.no_grad()
@pytest.mark.parametrize("levers", [Levers.none(), Levers(lean=True), Levers(fold=True, lean=True)])
def test_a_forward_reads_no_number_back_from_the_device(levers: Levers) -> None:
    model = transformer(zero_cond_t=True).to("meta")  # where such a read raises
    tokens, cells, text, time, grids = inputs(1)
    velocity = Forward(model, levers)(tokens.to("meta"), cells, text.to("meta"), time, grids)
    assert velocity.shape == (1, cells, 64)


@torch.no_grad()
def test_diffusers_own_forward_runs_while_its_caches_are_on() -> None:
    model = transformer(zero_cond_t=True)
    forward, calls = Forward(model, Levers(fold=True, lean=True)), []
    model.register_forward_hook(lambda *_: calls.append(1))
    expected = forward(*inputs(1))
    model.enable_cache(FirstBlockCacheConfig(threshold=0.0))
    with model.cache_context("cond"):
        assert torch.equal(forward(*inputs(1)), expected)
    assert calls == [1]
    assert forward.problem is not None
    assert "a cache of diffusers is on" in forward.problem
    model.disable_cache()
    assert forward.problem is None


def test_another_shape_of_diffusers_block_is_noticed_and_its_own_forward_runs(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from diffusers.models.transformers import transformer_qwenimage as upstream

    assert lean.differs_from_upstream(True) is None
    modulate = upstream.QwenImageTransformerBlock._modulate
    # A release in which gates go through a tanh.
    monkeypatch.setattr(
        upstream.QwenImageTransformerBlock,
        "_modulate",
        lambda *args: (lambda x, gate: (x, gate.tanh()))(*modulate(*args)),
    )
    lean.differs_from_upstream.cache_clear()
    try:
        forward, model = Forward(transformer(True), Levers(lean=True)), transformer(True)
        assert forward.changed is not None
        assert "differ" in forward.changed
        assert "is not used" in caplog.text
        with torch.no_grad():
            assert torch.equal(forward(*inputs(1)), Forward(model, Levers.none())(*inputs(1)))
    finally:
        lean.differs_from_upstream.cache_clear()
