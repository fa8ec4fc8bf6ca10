"""The idempotency key of a command's job, noted in its output folder until the files are there."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

KEY = "idempotency_key"
DIGITS = 16
"""Of the request's SHA-256 in a note's name."""


@contextmanager
def resumable(request: Mapping[str, Any], folder: Path) -> Iterator[dict[str, Any]]:
    """`request` under the key that an interrupted command has left in `folder`, or a new one, noted there.

    The note goes when the block ends well. It stays after an error, so that the same command goes on with what the
    worker has stored; but not where the endpoint's store refuses the key itself, which another try would meet again.
    """
    from darkroom.client.errors import JobFailed

    note = note_of(request, folder)
    try:
        yield {**request, KEY: _key(note)}
    except JobFailed as error:
        if error.details.get("field") == KEY:
            note.unlink(missing_ok=True)
        raise
    note.unlink(missing_ok=True)


def note_of(request: Mapping[str, Any], folder: Path) -> Path:
    """Where the key of this very request is noted: another request in the same folder has a note of its own."""
    asked = hashlib.sha256(json.dumps(request, sort_keys=True).encode()).hexdigest()
    return folder / f".darkroom-{asked[:DIGITS]}.json"


def _key(note: Path) -> str:
    from darkroom.client.download import write_atomically
    from darkroom.client.protocol import new_key

    if note.is_file():
        return str(json.loads(note.read_text())[KEY])
    key = new_key()
    write_atomically(note, json.dumps({KEY: key}).encode())
    return key
