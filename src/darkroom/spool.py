"""Finished results that the store did not take: kept on this worker's disk until the job is retried."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from darkroom.artifacts import Artifact


@dataclass(frozen=True)
class Kept:
    """A whole result as the recipe made it: its files and its own reply fields."""

    artifacts: list[Artifact]
    fields: dict[str, Any]


class Spool:
    """One folder per kept result, named by a hash of the ticket (the idempotency key or the job id)."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def keep(self, ticket: str, request_hash: str, artifacts: Sequence[Artifact], fields: dict[str, Any]) -> None:
        """Write the result down whole or not at all; one of the same ticket is replaced."""
        place = self._place(ticket)
        draft = place.with_suffix(".draft")
        shutil.rmtree(draft, ignore_errors=True)
        draft.mkdir(parents=True)
        index = []
        for number, artifact in enumerate(artifacts):
            (draft / str(number)).write_bytes(artifact.data)
            index.append({k: v for k, v in asdict(artifact).items() if k != "data"})
        note = {"request": request_hash, "artifacts": index, "fields": fields}
        (draft / "index.json").write_text(json.dumps(note))
        shutil.rmtree(place, ignore_errors=True)
        os.replace(draft, place)

    def find(self, ticket: str, request_hash: str) -> Kept | None:
        """The kept result of this ticket, or None where there is none or it belongs to another request."""
        place = self._place(ticket)
        try:
            note = json.loads((place / "index.json").read_text())
        except FileNotFoundError:
            return None
        if note["request"] != request_hash:
            return None
        data = [(place / str(number)).read_bytes() for number in range(len(note["artifacts"]))]
        artifacts = [Artifact(data=d, **entry) for d, entry in zip(data, note["artifacts"], strict=True)]
        return Kept(artifacts, note["fields"])

    def drop(self, ticket: str) -> None:
        """Forget a result that has been delivered."""
        shutil.rmtree(self._place(ticket), ignore_errors=True)

    def _place(self, ticket: str) -> Path:
        return self._folder / hashlib.sha256(ticket.encode()).hexdigest()[:32]
