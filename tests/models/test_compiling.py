"""Compiled code is kept per kind of worker, damage costs a compilation and failure costs speed, never a job."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from darkroom.models import compiling, lora
from darkroom.models.compiling import CompileCache, key
from darkroom.models.forward import Forward
from darkroom.models.levers import Levers
from darkroom.models.precision import quantise
from tests.models.test_lean import inputs, transformer


def test_the_file_is_named_by_torch_chip_shapes_and_storage(monkeypatch: pytest.MonkeyPatch) -> None:
    model = transformer(zero_cond_t=True)
    names = {key(model), key(transformer(zero_cond_t=False)), key(model.to(torch.bfloat16))}
    monkeypatch.setattr(compiling, "_triton", lambda: "another")
    names.add(key(model))
    monkeypatch.setattr(compiling, "chip", lambda _: "another")
    names.add(key(model))
    names |= {key(quantise(transformer(zero_cond_t=True), "transformer", name)) for name in ("fp8", "int8")}
    assert len(names) == 7
    monkeypatch.undo()
    assert key(transformer(zero_cond_t=True).bfloat16()) in names


@pytest.mark.parametrize("content", [b"", b"short", bytes(200)])
def test_a_damaged_file_is_ignored_with_a_word(
    tmp_path: Path, content: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    model = transformer(zero_cond_t=True)
    (tmp_path / f"{key(model)}.bin").write_bytes(content)
    cache = CompileCache(tmp_path, model)
    assert "damaged" in caplog.text
    cache.keep()  # nothing was compiled: nothing is written
    assert cache.path.read_bytes() == content


@torch.no_grad()
def test_where_the_compiler_fails_the_block_runs_uncompiled_and_says_so(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: Any) -> Any:
        raise FileNotFoundError("no compiler here")

    compile_ = torch.compile
    monkeypatch.setattr(torch, "compile", lambda f, **options: compile_(f, backend=broken, **options))
    model = transformer(zero_cond_t=True)
    forward = Forward(model, Levers(fold=True, lean=True, compile=True))
    expected = Forward(model, Levers.none())(*inputs(1))
    # Rotary positions stay in the compiler's form: cosines and sines.
    torch.testing.assert_close(forward(*inputs(1)), expected, atol=2e-6, rtol=1e-5)
    assert forward.problem is not None
    assert "uncompiled" in caplog.text


@torch.no_grad()
def test_loras_of_one_form_share_the_code_and_forms_beyond_the_limit_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    compile_ = torch.compile
    monkeypatch.setattr(torch, "compile", lambda f, **options: compile_(f, backend="eager", **options))
    monkeypatch.setattr(torch._dynamo.config, "recompile_limit", 3)
    torch._dynamo.reset()
    model = transformer(zero_cond_t=True)
    forward = Forward(model, Levers(fold=True, lean=True, compile=True))

    def worn(seed: int, *layers: str) -> None:
        random, weights = torch.Generator().manual_seed(seed), {}
        for index in range(len(model.transformer_blocks)):
            for layer in layers:
                linear = model.get_submodule(f"transformer_blocks.{index}.{layer}")
                name = f"transformer.transformer_blocks.{index}.{layer}"
                weights[f"{name}.lora_A.weight"] = 0.1 * torch.randn(4, linear.in_features, generator=random)
                weights[f"{name}.lora_B.weight"] = 0.1 * torch.randn(linear.out_features, 4, generator=random)
        with lora.worn(model, [lora.Lora(weights, 0.1 + 0.1 * seed, "loras[0].path")]):
            torch.testing.assert_close(
                forward(*inputs(1)), Forward(model, Levers.none())(*inputs(1)), atol=1e-5, rtol=1e-4
            )

    before = compiling.graphs()
    forward(*inputs(1))
    for seed in range(4):
        worn(seed, "attn.to_q")
    assert compiling.graphs() - before == 2
    assert forward.problem is None
    worn(0, "attn.to_k")
    assert forward.problem is not None
    assert "LoRAs of another form" in forward.problem
    compiled = compiling.graphs()
    worn(0, "attn.to_v")  # right all the same
    assert compiling.graphs() == compiled
    torch._dynamo.reset()
