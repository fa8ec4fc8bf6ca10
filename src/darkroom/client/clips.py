"""A video_edit as it goes over the wire, and its result as files."""

from __future__ import annotations

import base64
import hashlib
import io
import re
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from darkroom.client.replies import ClipFile, JobReply
from darkroom.client.request import GENEROUS, MOST
from darkroom.client.sources import ImageLike, is_address, media_type, source
from darkroom.jobs import parse

_PICTURES = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".gif"}
_ROOMY = GENEROUS.model_copy(update={"max_frames": MOST})


def video_input(
    init: ImageLike, edges: str | Path | None, source_video: str | Path | None, fields: Mapping[str, Any]
) -> dict[str, Any]:
    """The `input` of a video edit; fields that are None are left to the endpoint.

    edges: a folder of pictures, a zip, a video, or an address. source_video: a video or an address.
    Raises darkroom.errors.BadJob naming the field, FileNotFoundError or ValueError naming the file.
    """
    given = {
        "type": "video_edit",
        "init_image": source(init),
        "edges": None if edges is None else clip_source(edges),
        "source_video": None if source_video is None else clip_source(source_video),
        **fields,
    }
    request = {name: value for name, value in given.items() if value is not None}
    parse(request, _ROOMY)
    return request


def clip_source(clip: str | Path) -> str:
    """An address as it is; a video, a zip or a folder of pictures as a data URI."""
    if isinstance(clip, str) and is_address(clip):
        return clip
    path = Path(clip).expanduser()
    if path.is_dir():
        return data_uri(_zipped(path), "application/zip")
    if not path.is_file():
        raise FileNotFoundError(f"there is no folder, zip or video at {path}")
    data = path.read_bytes()
    return data_uri(data, "application/zip" if data.startswith(b"PK") else "video/mp4")


def _zipped(folder: Path) -> bytes:
    """The folder's pictures in the order of their names; the same pictures give the same bytes."""
    pictures = sorted((path for path in folder.iterdir() if path.suffix.lower() in _PICTURES), key=_natural)
    if not pictures:
        raise ValueError(f"there are no pictures in {folder}")
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for path in pictures:
            archive.writestr(zipfile.ZipInfo(path.name), path.read_bytes())
    return file.getvalue()


def _natural(path: Path) -> list[tuple[int, int | str]]:
    parts = re.split(r"(\d+)", path.name.lower())
    return [(0, int(part)) if part.isdecimal() and part.isascii() else (1, part) for part in parts if part]


def data_uri(data: bytes, kind: str) -> str:
    """The bytes as a data URI; `kind` is the media type where the bytes themselves tell none."""
    return f"data:{media_type(data) or kind};base64,{base64.b64encode(data).decode('ascii')}"


def listed(reply: JobReply) -> Iterator[ClipFile]:
    """Every file that a reply names. Pictures made from a seed have no name there; their key ends with it."""
    told = reply.model_dump()
    for entry in (entry for kind in ("images", "files", "frames") for entry in told.get(kind) or []):
        file = ClipFile.model_validate(entry)
        *above, name = str(file.key).split("/")
        cell = "cells/" if above[-1:] == ["cells"] else ""
        yield file if file.name else file.model_copy(update={"name": f"{cell}{name}"})


def missing(reply: JobReply, folder: Path) -> Iterator[tuple[ClipFile, Path]]:
    """The files of a result that are not in `folder` yet, or not as they should be, and their places there.

    A name that leads out of the folder is a defect of the endpoint: ValueError.
    """
    for file in listed(reply):
        path = folder / file.name
        if not path.resolve().is_relative_to(folder.resolve()):
            raise ValueError(f"the endpoint names a file outside its result: {file.name}")
        if not (path.is_file() and hashlib.sha256(path.read_bytes()).hexdigest() == file.sha256):
            yield file, path
