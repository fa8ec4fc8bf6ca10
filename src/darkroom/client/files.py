"""The pictures of a reply as files with plain names."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from darkroom.client.asynchronous import AsyncClient
from darkroom.client.errors import DownloadFailed
from darkroom.client.replies import EditReply, Picture
from darkroom.client.sources import media_type

_SUFFIX = {"image/png": ".png", "image/jpeg": ".jpg", "image/webp": ".webp"}


async def save_pictures(client: AsyncClient, reply: EditReply, folder: Path, stem: str) -> list[dict[str, Any]]:
    """Download all pictures as {stem}.png, or {stem}_1.png … where there are several.

    Returns one record each: file (relative to `folder`), sha256, seed, prompt, width, height.
    Raises DownloadFailed, also for a reply without pictures.
    """
    if not reply.images:
        raise DownloadFailed("the reply holds no picture")
    numbered = len(reply.images) > 1
    files = []
    for number, picture in enumerate(reply.images, 1):
        name = f"{stem}_{number}" if numbered else stem
        path = await client.download(picture, folder / f"{name}{suffix(picture)}")
        files.append(_record(path, folder, picture))
    return files


def suffix(picture: Picture) -> str:
    """'.png', '.jpg' or '.webp', by the key, else by the data URI, else '.png'."""
    known = {".png": ".png", ".jpg": ".jpg", ".jpeg": ".jpg", ".webp": ".webp"}
    if picture.key and (found := known.get(Path(picture.key).suffix.lower())):
        return found
    head = (picture.url or "").partition(";")[0]
    return _SUFFIX.get(head.removeprefix("data:"), ".png")


def _record(path: Path, folder: Path, picture: Picture) -> dict[str, Any]:
    data = path.read_bytes()
    return {
        "file": path.relative_to(folder).as_posix(),
        "sha256": hashlib.sha256(data).hexdigest(),
        "media_type": media_type(data),
        "seed": picture.seed,
        "prompt": picture.prompt,
        "width": picture.width,
        "height": picture.height,
    }


def intact(folder: Path, files: list[dict[str, Any]]) -> bool:
    """Are all recorded files there with their recorded content?"""
    return bool(files) and all(_same(folder / record["file"], record["sha256"]) for record in files)


def _same(path: Path, sha256: str) -> bool:
    return path.is_file() and hashlib.sha256(path.read_bytes()).hexdigest() == sha256


def destinations(reply: EditReply, out: Path | None, first_image: str) -> list[Path]:
    """A path for each picture: `out` itself, numbered where there are several, or names inside the folder `out`.

    Without `out` the name follows the first input and never that of a file that exists.
    Raises DownloadFailed for a reply without pictures.
    """
    if not reply.images:
        raise DownloadFailed("the reply holds no picture")
    if out is not None and not (out.is_dir() or not out.suffix):
        return _numbered(out.with_suffix(""), [out.suffix] * len(reply.images))
    stem = "picture" if first_image.startswith("data:") else Path(first_image.partition("?")[0]).stem or "picture"
    folder = out or Path()
    suffixes = [suffix(picture) for picture in reply.images]
    paths, tries = _numbered(folder / f"{stem}-edited", suffixes), 1
    while any(path.exists() for path in paths):
        tries += 1
        paths = _numbered(folder / f"{stem}-edited-{tries}", suffixes)
    return paths


def _numbered(base: Path, suffixes: list[str]) -> list[Path]:
    if len(suffixes) == 1:
        return [base.with_name(base.name + suffixes[0])]
    return [base.with_name(f"{base.name}_{number}{end}") for number, end in enumerate(suffixes, 1)]
