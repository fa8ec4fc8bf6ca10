"""Bridge jobs as they go over the wire, checked before they are sent."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from darkroom.client.clips import clip_source, data_uri
from darkroom.client.request import GENEROUS
from darkroom.client.sources import ImageLike, is_address, source
from darkroom.jobs import parse


def compare_input(
    images: Sequence[ImageLike], prompts: Sequence[str], sight_images: Sequence[ImageLike], fields: Mapping[str, Any]
) -> dict[str, Any]:
    """The `input` of a bridge_compare; fields that are None are left to the endpoint.

    Raises darkroom.errors.BadJob naming the field, FileNotFoundError or ValueError naming the picture.
    """
    given = {
        "type": "bridge_compare",
        "images": [source(image) for image in images],
        "sight_images": [source(image) for image in sight_images] or None,
        "prompt": prompts[0] if len(prompts) == 1 else list(prompts),
        **fields,
    }
    request = {name: value for name, value in given.items() if value is not None}
    parse(request, GENEROUS)
    return request


def train_input(dataset: str, fields: Mapping[str, Any]) -> dict[str, Any]:
    """The `input` of a bridge_train. dataset: a folder of triples, a zip of them, or an address. Raises likewise."""
    request = {
        "type": "bridge_train",
        "dataset": triples_source(dataset),
        **{name: value for name, value in fields.items() if value is not None},
    }
    parse(request, GENEROUS)
    return request


def triples_source(place: str) -> str:
    """An address or a zip as it is; a folder as a zip of all that lies in it, in a data URI."""
    folder = Path(place).expanduser()
    if is_address(place) or not folder.is_dir():
        return clip_source(place)
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for path in sorted(path for path in folder.rglob("*") if path.is_file()):
            # Without times, so that the same files give the same bytes, and so the same job.
            archive.writestr(zipfile.ZipInfo(str(path.relative_to(folder))), path.read_bytes())
    return data_uri(file.getvalue(), "application/zip")
