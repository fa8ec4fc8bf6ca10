"""Injection heads as files: safetensors, with the head's form and what it was trained for in the header.

A checkpoint of a training that goes on holds its optimizer's state beside the weights, under names of its own. A
pickle, which can run code, is refused.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from darkroom.errors import InvalidInput
from darkroom.technique.injection import HeadConfig, InjectionHead

FORM, ABOUT = "injection_head", "about"
"""Keys of the header: the head's form and what is known of its training, both as JSON."""
BESIDE = "training."
"""What the names of tensors begin with that are no part of the head."""
_PICKLES = (b"PK", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")


@dataclass(frozen=True)
class Head:
    """A head, JSON values on its training, and, in a checkpoint to go on from, the training's own tensors."""

    module: InjectionHead
    about: Mapping[str, Any] = field(default_factory=dict)
    training: Mapping[str, Tensor] = field(default_factory=dict)

    def fits(self, feature_width: int, levels: int, text_width: int) -> None:
        """Raise InvalidInput, naming both sides, for models of other dimensions."""
        config = self.module.config
        if (config.feature_width, config.levels, config.text_width) != (feature_width, levels, text_width):
            raise InvalidInput(
                f"head was made for {config.levels} levels of features of width {config.feature_width} and prompt "
                f"embeddings of width {config.text_width}; these models have {levels} of {feature_width} and "
                f"{text_width}",
                field="head",
            )


def untrained(config: HeadConfig, seed: int) -> InjectionHead:
    """A head before its first step; the same seed draws the same weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return InjectionHead(config)


def to_bytes(head: Head) -> bytes:
    """The file of a head."""
    header = {FORM: json.dumps(asdict(head.module.config)), ABOUT: json.dumps(dict(head.about))}
    beside = {f"{BESIDE}{name}": value for name, value in head.training.items()}
    tensors = {**head.module.state_dict(), **beside}
    return save({name: value.detach().to("cpu").contiguous() for name, value in tensors.items()}, header)


def from_bytes(data: bytes, name: str = "head") -> Head:
    """A head from the bytes of its file. Raises InvalidInput, which names `name`, for anything else."""
    if data.startswith(_PICKLES):
        raise InvalidInput(f"{name} must be a safetensors file; a pickle can run code and is refused", field=name)
    try:
        tensors, header = load(data), _header(data)
    except (SafetensorError, ValueError) as error:
        raise InvalidInput(f"{name} is no safetensors file, or a damaged one", field=name) from error
    if FORM not in header:
        raise InvalidInput(f"{name} is a safetensors file without an injection head's form in its header", field=name)
    try:
        config, about = HeadConfig(**json.loads(header[FORM])), json.loads(header.get(ABOUT, "{}"))
        with torch.device("meta"):
            module = InjectionHead(config)
    except (TypeError, ValueError) as error:
        raise InvalidInput(f"{name} describes no head that is known here: {error}", field=name) from error
    weights = {key: value for key, value in tensors.items() if not key.startswith(BESIDE)}
    try:
        module.load_state_dict(weights, assign=True)
    except RuntimeError as error:
        raise InvalidInput(f"{name} has weights that do not belong to the form in its header", field=name) from error
    beside = {key.removeprefix(BESIDE): value for key, value in tensors.items() if key.startswith(BESIDE)}
    return Head(module.eval(), about, beside)


def _header(data: bytes) -> dict[str, str]:
    length = int.from_bytes(data[:8], "little")
    return dict(json.loads(data[8 : 8 + length]).get("__metadata__", {}))
