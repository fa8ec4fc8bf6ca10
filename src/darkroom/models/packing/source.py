"""The checkpoint that is packed: a folder in diffusers' layout, read one tensor at a time."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from torch import Tensor

from darkroom.errors import ModelNotReady
from darkroom.models.parts import header, skeleton
from darkroom.models.placement import module_name, place, shapes
from darkroom.models.specs import ModelSpec
from darkroom.models.weights import fingerprint


def small_parts(spec: ModelSpec) -> tuple[str, ...]:
    """Folders that are copied as they are: what reads prompts, which Qwen-Image has another of, and the schedule."""
    return (spec.reader, "scheduler")


@dataclass(frozen=True)
class Entry:
    """One tensor of a part: its name in the module, its shape, and where it lies."""

    name: str
    shape: tuple[int, ...]
    file: Path
    stored_name: str


def entries(folder: Path, part: str) -> list[Entry]:
    """Every tensor of a part, in the module's order, checked against the module that its configuration describes.

    Raises ModelNotReady naming the first tensor that is missing, unknown or of another shape.
    """
    found = {}
    for path in sorted((folder / part).glob("*.safetensors")):
        for name, shape in _header(path):
            found[module_name(part, name)] = Entry(module_name(part, name), shape, path, name)
    if not found:
        raise ModelNotReady(f"{folder.name}/{part} holds no .safetensors file")
    module = skeleton(folder / part, part)
    expected = [(name, shape) for name, shape in shapes(module) if place(part, name) != "dropped"]
    for name, shape in expected:
        if name not in found:
            raise ModelNotReady(f"{folder.name}/{part} has no weight {name!r}, which its configuration asks for")
        if found[name].shape != shape:
            raise ModelNotReady(
                f"{folder.name}/{part}: {name!r} is {list(found[name].shape)} and should be {list(shape)}"
            )
    unknown = {name for name in found if place(part, name) != "dropped"} - {name for name, _ in expected}
    if unknown:
        raise ModelNotReady(f"{folder.name}/{part} has a weight {min(unknown)!r} that its configuration does not know")
    return [found[name] for name, _ in expected]


def tensors(entries_of_part: list[Entry]) -> Iterator[tuple[Entry, Tensor]]:
    """Each tensor in turn, one at a time, file by file as long as the entries are."""
    from safetensors import safe_open

    for path, group in groupby(entries_of_part, key=lambda entry: entry.file):
        with safe_open(path, framework="pt") as opened:
            for entry in group:
                yield entry, opened.get_tensor(entry.stored_name)


def source_fingerprint(folder: Path, parts: Sequence[str]) -> str:
    """One SHA-256 for the weights and configurations of `parts`. Files of the hub's cache are not read for it."""
    named = {part: fingerprint(folder / part) for part in parts}
    return hashlib.sha256(repr(sorted(named.items())).encode()).hexdigest()


def _header(path: Path) -> Iterator[tuple[str, tuple[int, ...]]]:
    try:
        yield from header(path)
    except (ValueError, KeyError, OSError) as error:
        raise ModelNotReady(f"{path.parent.name}/{path.name} is no safetensors file; fetch it again") from error
