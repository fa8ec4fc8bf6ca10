"""A picture of a reply -> a file that is either whole and verified, or not there."""

from __future__ import annotations

import hashlib
import os
import uuid
from pathlib import Path

from darkroom.client.errors import ChecksumMismatch, DownloadFailed
from darkroom.client.flow import Flow, Pause
from darkroom.client.protocol import Protocol
from darkroom.client.replies import Picture
from darkroom.client.sources import from_data_uri

TRIES = 3
"""Damage on the way is rare and does not repeat; damage at the source does."""


def save(protocol: Protocol, picture: Picture, path: Path) -> Flow[Path]:
    """Fetch or decode the picture and write it. Raises DownloadFailed, ChecksumMismatch."""
    data = yield from verified(protocol, picture)
    write_atomically(path, data)
    return path


def verified(protocol: Protocol, picture: Picture) -> Flow[bytes]:
    """The picture's bytes, with the SHA-256 that the reply gives. Raises DownloadFailed, ChecksumMismatch."""
    for attempt in range(1, TRIES + 1):
        data = yield from _bytes(protocol, picture)
        actual = hashlib.sha256(data).hexdigest()
        expected = (picture.sha256 or actual).lower()
        if actual == expected:
            return data
        if attempt < TRIES:
            yield Pause(protocol.retry.backoff(attempt))
    raise ChecksumMismatch(
        f"{picture.key or 'the picture'} arrived with SHA-256 {actual[:12]}…, not {expected[:12]}…"
    )


def _bytes(protocol: Protocol, picture: Picture) -> Flow[bytes]:
    url = picture.url or ""
    if url.startswith("data:"):
        try:
            return from_data_uri(url)
        except ValueError as error:
            raise DownloadFailed(f"the picture in the reply is damaged: {error}") from None
    if not url.startswith(("http://", "https://")):
        where = f"; it is stored under {picture.key}" if picture.key else ""
        raise DownloadFailed(f"the reply holds no link that can be fetched{where}")
    return (yield from protocol.fetch(url))


def write_atomically(path: Path, data: bytes) -> None:
    """Write beside `path`, flush to the disk, then rename: a reader never sees half a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # Opened as any new file, so that the umask decides who may read it; mkstemp's would be private.
    part = path.with_name(f".{path.name}.{uuid.uuid4().hex}.part")
    try:
        with part.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise
