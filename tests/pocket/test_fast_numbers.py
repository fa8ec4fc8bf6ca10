"""In which numbers training multiplies."""

import pytest
import torch

from darkroom.pocket.stages.fast_numbers import autocast, fast_numbers


@pytest.mark.parametrize(
    ("device", "capabilities", "numbers"),
    [
        ("cpu", {"avx512_bf16": True, "amx_bf16": False}, torch.float32),
        ("cpu", {"avx512_bf16": True, "amx_bf16": True}, torch.bfloat16),
        # What torch says of CPUs of other makes knows no such name.
        ("cpu", {}, torch.float32),
        ("cuda", {}, torch.bfloat16),
    ],
)
def test_bfloat16_is_for_what_multiplies_it_faster(
    monkeypatch: pytest.MonkeyPatch, device: str, capabilities: dict[str, bool], numbers: torch.dtype
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities)
    assert fast_numbers(torch.device(device)) is numbers


@pytest.mark.parametrize("tiles", [False, True])
def test_products_are_computed_in_them(monkeypatch: pytest.MonkeyPatch, tiles: bool) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"amx_bf16": tiles})
    with autocast(torch.device("cpu")):
        product = torch.eye(2) @ torch.eye(2)
    assert product.dtype is (torch.bfloat16 if tiles else torch.float32)
