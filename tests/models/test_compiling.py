"""Compiled code is kept per kind of worker, damage costs a compilation and failure costs speed, never a job."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from darkroom.models import compiling
from darkroom.models.compiling import CompileCache, key
from darkroom.models.forward import Forward
from darkroom.models.levers import Levers
from tests.models.test_lean import inputs, transformer


def test_the_file_is_named_by_torch_chip_and_shapes(monkeypatch: pytest.MonkeyPatch) -> None:
    model = transformer(zero_cond_t=True)
    names = {key(model), key(transformer(zero_cond_t=False)), key(model.to(torch.bfloat16))}
    monkeypatch.setattr(compiling, "_triton", lambda: "another")
    names.add(key(model))
    monkeypatch.setattr(compiling, "chip", lambda _: "another")
    names.add(key(model))
    assert len(names) == 5
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
