"""Bridges and heads as files: the same module comes back, and whatever is no such file is named."""

from __future__ import annotations

import copy
import json
import pickle
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import pytest
import torch
from safetensors.torch import save

from darkroom.errors import InvalidInput
from darkroom.models import heads
from darkroom.models.bridge import BRIDGE
from darkroom.models.heads import HEAD, Head
from darkroom.models.trained import ABOUT, Kind
from darkroom.technique.bridge import BridgeConfig, VisionBridge
from darkroom.technique.injection import HeadConfig, InjectionHead

BRIDGE_FORM = BridgeConfig(8, 6, rank=2)
HEAD_FORM = HeadConfig(6, 3, 8, slots=2, rank=4, attention_heads=2)
MADE: dict[str, tuple[Kind[Any], Any, Callable[[], torch.nn.Module]]] = {
    "bridge": (BRIDGE, BRIDGE_FORM, lambda: VisionBridge(BRIDGE_FORM)),
    "head": (HEAD, HEAD_FORM, lambda: InjectionHead(HEAD_FORM)),
}


@pytest.fixture(params=MADE)
def made(request: pytest.FixtureRequest) -> tuple[Kind[Any], Any, torch.nn.Module]:
    kind, form, make = MADE[request.param]
    return kind, form, make()


def test_a_file_brings_back_the_same_module_and_what_stands_beside_it(
    made: tuple[Kind[Any], Any, torch.nn.Module],
) -> None:
    kind, form, module = made
    beside = {"exp_avg.gate": torch.randn(3)}
    again, about, training = kind.from_bytes(kind.to_bytes(module, form, {"steps": 3}, beside), "weights")
    assert again.config == form
    assert about == {"steps": 3}
    assert torch.equal(training["exp_avg.gate"], beside["exp_avg.gate"])
    for name, value in module.state_dict().items():
        assert torch.equal(again.state_dict()[name], value)


def test_the_same_values_are_the_same_bytes(made: tuple[Kind[Any], Any, torch.nn.Module]) -> None:
    kind, form, module = made
    files = {kind.to_bytes(module, form, {"steps": 3}, {"exp_avg.gate": torch.ones(3)}) for _ in range(8)}
    assert len(files) == 1


def test_a_head_stored_in_another_type_still_takes_features_in_float32() -> None:
    head = heads.untrained(HEAD_FORM, 0)
    data = heads.to_bytes(Head(copy.deepcopy(head).bfloat16()))
    features = torch.randn(3, 5, 6, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(heads.from_bytes(data).module(features), head(features), rtol=0.05, atol=0.05)


@pytest.mark.parametrize("length", [0x0280, 0x0480, 0x0580, int.from_bytes(b"PK", "little")])
def test_a_good_file_whose_length_looks_like_a_pickle_is_read(length: int) -> None:
    """A safetensors file begins with the length of its header, in bytes that may be those of a pickle or a zip."""
    tensor = {"x": torch.ones(1)}

    def file(padding: int) -> bytes:
        form = json.dumps({**asdict(BRIDGE_FORM)})
        return save(tensor, {BRIDGE.key: form, ABOUT: json.dumps({"note": "x" * padding})})

    bare = int.from_bytes(file(0)[:8], "little")
    data = file(length - bare)
    assert int.from_bytes(data[:8], "little") == length
    with pytest.raises(InvalidInput, match="do not belong to the form"):
        BRIDGE.from_bytes(data, "weights")


def faulty(kind: Kind[Any], form: Any, module: torch.nn.Module) -> dict[str, bytes]:
    weights = {name: value.clone() for name, value in module.state_dict().items()}
    good = kind.to_bytes(module, form, {}, {})

    def told(**changes: Any) -> dict[str, str]:
        return {kind.key: json.dumps({**asdict(form), **changes})}

    first = next(iter(weights))
    return {
        "a pickle": pickle.dumps(weights),
        "damaged": good[:-10],
        "is no safetensors": b"hello",
        f"without {kind.what}'s form": save(weights),
        "do not belong to the form": save(weights, told(rank=2 * form.rank)),
        f"does not describe {kind.what} that is known here: .*colour": save(weights, told(colour="red")),
        f"does not describe {kind.what}": save(weights, told(rank=2.5)),
        "(does not describe|do not belong)": save(weights, told(rank=10**13)),
        "known here: .*": save(weights, {**told(), ABOUT: "3"}),
        "not finite": save({**weights, first: torch.full_like(weights[first], torch.nan)}, told()),
    }


@pytest.mark.parametrize("number", range(10))
def test_a_bad_file_is_named(made: tuple[Kind[Any], Any, torch.nn.Module], number: int) -> None:
    words, data = list(faulty(*made).items())[number]
    with pytest.raises(InvalidInput, match=words) as caught:
        made[0].from_bytes(data, "weights")
    assert caught.value.field == "weights"


def test_an_unknown_fusion_is_named() -> None:
    weights = VisionBridge(BRIDGE_FORM).state_dict()
    data = save(weights, {BRIDGE.key: json.dumps({**asdict(BRIDGE_FORM), "fusion": "sum"})})
    with pytest.raises(InvalidInput, match="fusion must be one of attention, mlp"):
        BRIDGE.from_bytes(data, "bridge")
