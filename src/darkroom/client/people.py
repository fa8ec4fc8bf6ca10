"""Folders of people as they go over the wire: `seed_*` directories with `photo_view_*` and `caption.txt`, zipped."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from darkroom.client.clips import clip_source, data_uri
from darkroom.client.request import GENEROUS, MOST
from darkroom.client.sources import is_address, source
from darkroom.jobs import parse

_ROOMY = GENEROUS.model_copy(update={"max_cells": MOST})
_WANTED = ("photo_view_*", "caption.txt")


def dataset_source(places: Sequence[str]) -> str:
    """An address or a zip as it is; `seed_*` directories, or folders that hold them, as one zip in a data URI.

    Raises FileNotFoundError or ValueError, which names the place.
    """
    if len(places) == 1 and (is_address(places[0]) or Path(places[0]).expanduser().is_file()):
        return clip_source(places[0])
    people: dict[str, Path] = {}
    for place in places:
        for folder in _directories(Path(place).expanduser()):
            if people.setdefault(folder.name, folder) != folder:
                raise ValueError(f"two directories are called {folder.name}: {people[folder.name]} and {folder}")
    return data_uri(_zipped(people), "application/zip")


def _directories(place: Path) -> list[Path]:
    if place.is_file():
        raise ValueError(f"{place} is a file; give one zip alone, or directories")
    if not place.is_dir():
        raise FileNotFoundError(f"there is no folder at {place}")
    if place.name.startswith("seed_"):
        return [place]
    found = sorted(path for path in place.glob("seed_*") if path.is_dir())
    if not found:
        raise ValueError(f"there are no seed_* directories in {place}")
    return found


def _zipped(people: Mapping[str, Path]) -> bytes:
    """The same files give the same bytes; an empty directory is kept, for the endpoint to name."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, folder in people.items():
            archive.writestr(zipfile.ZipInfo(f"{name}/"), b"")
            for path in sorted(path for pattern in _WANTED for path in folder.glob(pattern) if path.is_file()):
                archive.writestr(zipfile.ZipInfo(f"{name}/{path.name}"), path.read_bytes())
    return file.getvalue()


def sweep_input(
    photos: Sequence[str], dataset: Sequence[str], head: str | None, fields: Mapping[str, Any]
) -> dict[str, Any]:
    """The `input` of an injection_sweep; fields that are None are left to the endpoint.

    head: a file, an address, or a key in the endpoint's store. Raises darkroom.errors.BadJob naming the field,
    FileNotFoundError or ValueError naming the file.
    """
    given = {
        "type": "injection_sweep",
        "photos": [source(photo) for photo in photos] or None,
        "dataset": dataset_source(dataset) if dataset else None,
        "head": None if head is None else _head(head),
        **fields,
    }
    others = [source(photo) for photo in fields.get("other_photos") or []]
    return _checked({**given, "other_photos": others or None})


def train_input(dataset: Sequence[str], fields: Mapping[str, Any]) -> dict[str, Any]:
    """The `input` of an injection_train; raises as `sweep_input`."""
    return _checked({"type": "injection_train", "dataset": dataset_source(dataset), **fields})


def _head(head: str) -> str:
    path = Path(head).expanduser()
    return data_uri(path.read_bytes(), "application/octet-stream") if path.is_file() else head


def _checked(given: Mapping[str, Any]) -> dict[str, Any]:
    request = {name: value for name, value in given.items() if value is not None}
    parse(request, _ROOMY)
    return request
