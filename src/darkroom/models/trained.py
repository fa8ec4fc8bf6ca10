"""Small trained modules as files: safetensors, with the module's form and what it was trained for in the header.

A checkpoint of a training that goes on holds its optimizer's state beside the weights, under names of its own. A
pickle, which can run code, is refused.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Generic, TypeVar

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn

from darkroom.errors import InvalidInput

ABOUT = "about"
"""Key of the header for what is known of the training, as JSON."""
BESIDE = "training."
"""What the names of tensors begin with that are no part of the module."""
_PICKLES = (b"PK", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")

ModuleT = TypeVar("ModuleT", bound=nn.Module)


@dataclass(frozen=True)
class Kind(Generic[ModuleT]):
    """One kind of trained module.

    key: of the header, under which the form stands as JSON. what: for people, as in "a bridge". make: the module of
    a form; raises TypeError, ValueError or RuntimeError for what makes none.
    """

    key: str
    what: str
    make: Callable[[dict[str, Any]], ModuleT]

    def to_bytes(self, module: nn.Module, form: Any, about: Mapping[str, Any], training: Mapping[str, Tensor]) -> bytes:
        """The file of a module, the same bytes for the same values. form: a dataclass that `make` takes the fields of.
        """
        header = {self.key: json.dumps(asdict(form)), ABOUT: json.dumps(dict(about))}
        tensors = {**module.state_dict(), **{f"{BESIDE}{name}": value for name, value in training.items()}}
        return _ordered(save({name: value.detach().to("cpu").contiguous() for name, value in tensors.items()}, header))

    def from_bytes(self, data: bytes, name: str) -> tuple[ModuleT, dict[str, Any], dict[str, Tensor]]:
        """(module, about, training's tensors). Raises InvalidInput, which names `name`, for anything else."""
        tensors, header = _opened(data, name)
        if self.key not in header:
            raise InvalidInput(f"{name} is a safetensors file without {self.what}'s form in its header", field=name)
        try:
            about = dict(json.loads(header.get(ABOUT, "{}")))
            with torch.device("meta"):
                module = self.make(json.loads(header[self.key]))
        except (TypeError, ValueError, RuntimeError) as error:
            raise InvalidInput(
                f"{name} does not describe {self.what} that is known here: {error}", field=name
            ) from error
        weights = {key: value for key, value in tensors.items() if not key.startswith(BESIDE)}
        try:
            module.load_state_dict(weights, assign=True)
        except RuntimeError as error:
            raise InvalidInput(
                f"{name} has weights that do not belong to the form in its header", field=name
            ) from error
        if not all(bool(value.isfinite().all()) for value in weights.values()):
            raise InvalidInput(f"{name} has weights that are not finite: its training did not go well", field=name)
        beside = {key.removeprefix(BESIDE): value for key, value in tensors.items() if key.startswith(BESIDE)}
        return module.eval(), about, beside


def _ordered(data: bytes) -> bytes:
    """The same safetensors file with its header's keys in order: the library leaves those of the metadata to chance."""
    length = int.from_bytes(data[:8], "little")
    header = json.dumps(json.loads(data[8 : 8 + length]), sort_keys=True, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)
    return len(header).to_bytes(8, "little") + header + data[8 + length :]


def _opened(data: bytes, name: str) -> tuple[dict[str, Tensor], dict[str, str]]:
    """(tensors, header) of a safetensors file. Raises InvalidInput."""
    try:
        tensors = load(data)
    except (SafetensorError, ValueError) as error:
        # Only now: the length that a good file begins with may be the bytes that a pickle begins with.
        if data.startswith(_PICKLES):
            raise InvalidInput(
                f"{name} must be a safetensors file; a pickle can run code and is refused", field=name
            ) from None
        raise InvalidInput(f"{name} is no safetensors file, or a damaged one", field=name) from error
    length = int.from_bytes(data[:8], "little")
    return tensors, dict(json.loads(data[8 : 8 + length]).get("__metadata__", {}))
