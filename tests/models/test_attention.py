"""The attention kernel is the hardware's best, or the one that the setting names."""

from __future__ import annotations

import pytest
import torch
from pydantic import ValidationError

from darkroom.errors import ModelNotReady
from darkroom.models.attention import best, use_attention
from darkroom.models.forward import Forward
from darkroom.models.levers import Levers
from darkroom.settings import Settings
from tests.models.test_lean import inputs, transformer


def test_the_cpu_takes_torchs_own_and_both_forwards_take_what_is_set() -> None:
    model = transformer(zero_cond_t=True)
    with torch.no_grad():
        expected = Forward(model, Levers.none())(*inputs(1))
    use_attention(model, "auto")
    assert best(model.device, torch.bfloat16) == "native"
    assert {block.attn.processor._attention_backend.value for block in model.transformer_blocks} == {"native"}
    with torch.no_grad():
        assert torch.equal(Forward(model, Levers(lean=True))(*inputs(1)), expected)


def test_hopper_takes_cudnn_for_16_bits_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    hopper = torch.device("cuda")
    found = {dtype: best(hopper, dtype) for dtype in (torch.bfloat16, torch.float16, torch.float32)}
    assert found == {torch.bfloat16: "cudnn", torch.float16: "cudnn", torch.float32: "native"}
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 9))
    assert best(hopper, torch.bfloat16) == "native"


def test_a_kernel_that_is_not_installed_is_refused_by_the_settings_name() -> None:
    with pytest.raises(ModelNotReady, match="DARKROOM_ATTENTION=flash3"):
        use_attention(transformer(zero_cond_t=True), "flash3")


def test_an_unknown_kernel_stops_the_settings() -> None:
    with pytest.raises(ValidationError, match="attention"):
        Settings(attention="fastest")  # type: ignore[arg-type]
