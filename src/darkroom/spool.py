"""Finished results that the store did not take: kept on this worker's disk until the job is retried."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from darkroom.artifacts import Artifact

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Kept:
    """A whole result as the recipe made it: files, its own reply fields, and how it was made (seconds, warnings).

    stored: the manifest lines of files that are in the store already.
    """

    artifacts: list[Artifact]
    fields: dict[str, Any]
    making: dict[str, Any] = field(default_factory=dict)
    stored: list[dict[str, Any]] = field(default_factory=list)


class Spool:
    """One folder per kept result, named by a hash of the ticket (the idempotency key or the job id).

    At most `most_bytes` are kept; beyond that the oldest results go.
    """

    def __init__(self, folder: Path, most_bytes: int) -> None:
        self._folder, self._most_bytes = folder, most_bytes

    def keep(self, ticket: str, request_hash: str, kept: Kept) -> None:
        """Write the result down whole or not at all; one of the same ticket is replaced. Raises OSError."""
        place = self._place(ticket)
        draft = place.with_suffix(".draft")
        shutil.rmtree(draft, ignore_errors=True)
        draft.mkdir(parents=True)
        index = []
        for number, artifact in enumerate(kept.artifacts):
            (draft / str(number)).write_bytes(artifact.data)
            index.append({k: v for k, v in asdict(artifact).items() if k != "data"})
        note = {
            "request": request_hash,
            "artifacts": index,
            "fields": kept.fields,
            "making": kept.making,
            "stored": kept.stored,
        }
        (draft / "index.json").write_text(json.dumps(note))
        shutil.rmtree(place, ignore_errors=True)
        os.replace(draft, place)
        self._make_room()

    def find(self, ticket: str, request_hash: str) -> Kept | None:
        """The kept result of this ticket, or None where there is none or it belongs to another request."""
        place = self._place(ticket)
        try:
            note = json.loads((place / "index.json").read_text())
            if note["request"] != request_hash:
                return None
            data = [(place / str(number)).read_bytes() for number in range(len(note["artifacts"]))]
            artifacts = [Artifact(data=d, **entry) for d, entry in zip(data, note["artifacts"], strict=True)]
            return Kept(artifacts, note["fields"], note["making"], note["stored"])
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError):
            log.warning("a kept result cannot be read and is made again")
            return None

    def drop(self, ticket: str) -> None:
        """Forget a result that has been delivered."""
        shutil.rmtree(self._place(ticket), ignore_errors=True)

    def _make_room(self) -> None:
        """Another job may keep or drop its result meanwhile, and workers on one machine may share the folder."""
        found = []
        for place in self._folder.iterdir():
            with suppress(FileNotFoundError, NotADirectoryError):
                files = [file.stat().st_size for file in place.iterdir()]
                found.append((place.stat().st_mtime, sum(files), place))
        total = 0
        for number, (_, size, place) in enumerate(sorted(found, reverse=True)):
            total += size
            if total > self._most_bytes and number:
                log.warning("the spool is full: an older result that was never retried is dropped")
                shutil.rmtree(place, ignore_errors=True)

    def _place(self, ticket: str) -> Path:
        return self._folder / hashlib.sha256(ticket.encode()).hexdigest()[:32]
