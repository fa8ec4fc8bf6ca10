"""What has become of each job of a batch, on disk before the next step is taken."""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from darkroom.client.batch.plan import Planned
from darkroom.client.protocol import new_key

State = Literal["planned", "running", "rendered", "done", "failed"]

_SCHEMA = """
CREATE TABLE IF NOT EXISTS jobs (
    fingerprint TEXT PRIMARY KEY,
    key         TEXT NOT NULL,
    state       TEXT NOT NULL,
    endpoint    TEXT NOT NULL,
    job_id      TEXT,
    runs        INTEGER NOT NULL,
    seconds     REAL,
    reply       TEXT,
    files       TEXT NOT NULL,
    error       TEXT,
    changed_at  REAL NOT NULL
)"""


class LedgerBusy(RuntimeError):
    """Another batch is writing to this folder."""


class LedgerUnwritable(RuntimeError):
    """The ledger cannot be opened or written, a full disk for instance: the batch stops before it loses track."""


class LedgerMismatch(RuntimeError):
    """The folder's unfinished jobs were sent to another endpoint, which cannot be asked for them here."""


@dataclass(frozen=True)
class Entry:
    """One job's line. `key` never changes, so that the endpoint knows a repeated job again.

    planned → running (has `job_id`) → rendered (has `reply`) → done (has `files`); failed has `error`,
    whose `resume` is the state that a later run goes on from, where the job itself did not fail.
    """

    fingerprint: str
    key: str
    endpoint: str
    state: State = "planned"
    job_id: str | None = None
    runs: int = 0
    seconds: float | None = None
    reply: dict[str, Any] | None = None
    files: list[dict[str, Any]] = field(default_factory=list)
    error: dict[str, Any] | None = None

    @property
    def faults(self) -> list[dict[str, Any]]:
        """What went wrong: with the job as a whole, or with single prompts of it."""
        return [self.error] if self.error else list((self.reply or {}).get("failed") or [])

    @property
    def resume(self) -> State:
        """Where a later run goes on with a job that has failed."""
        if self.reply is not None:
            return "rendered" if self._fetchable else "planned"
        return "running" if (self.error or {}).get("resume") == "running" and self.job_id else "planned"

    @property
    def _fetchable(self) -> bool:
        """Does every picture of the reply say where its bytes are? If not, its key brings the reply anew."""
        images = (self.reply or {}).get("images") or []
        return all(str(image.get("url") or "").startswith(("http://", "https://", "data:")) for image in images)

    @property
    def unfinished(self) -> bool:
        """Does the endpoint hold something of this job that is not here yet?"""
        return self.state in ("running", "rendered") or (self.state == "failed" and self.resume != "planned")

    @property
    def usd(self) -> float:
        """Dollars that the reply names, 0 where it names none."""
        cost = (self.reply or {}).get("cost") or {}
        return float(cost.get("usd") or 0.0)


class Ledger:
    """A SQLite file that one process at a time may hold.

    Raises LedgerBusy, LedgerUnwritable (every method may), ValueError for a damaged file.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        with self._told():
            self._db = sqlite3.connect(path, timeout=0.5, isolation_level=None)
        try:
            with self._told():
                self._open()
        except (LedgerBusy, LedgerUnwritable):
            self._db.close()
            raise
        except sqlite3.DatabaseError as error:
            self._db.close()
            raise ValueError(f"{path} is no ledger: {error}") from None

    @contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
                raise LedgerBusy(f"another batch holds {self._path}: {error}") from None
            raise LedgerUnwritable(
                f"the batch stops because its ledger {self._path} cannot be written: {error}; "
                "with that mended, the same command goes on from here and pays nothing twice"
            ) from None

    def _open(self) -> None:
        # Exclusive for the life of the connection; the system lets go of it even after SIGKILL.
        self._db.execute("PRAGMA locking_mode=EXCLUSIVE")
        self._db.execute("PRAGMA journal_mode=WAL")
        # A job's line must survive a power cut, or it is paid for again.
        self._db.execute("PRAGMA synchronous=FULL")
        self._db.execute("BEGIN EXCLUSIVE")
        self._db.execute(_SCHEMA)
        self._db.execute("COMMIT")

    def enter(self, plan: Sequence[Planned], endpoint: str) -> list[Entry]:
        """The plan's jobs as the ledger knows them, new ones with a key of their own.

        Raises LedgerMismatch where an unfinished job belongs to another endpoint.
        """
        with self._told():
            known = {entry.fingerprint: entry for entry in self._all()}
            entries = []
            self._db.execute("BEGIN")
            for planned in plan:
                entry = known.get(planned.fingerprint)
                if entry is None:
                    key = planned.fields.get("idempotency_key") or new_key()
                    entry = Entry(planned.fingerprint, key, endpoint)
                    self._write(entry)
                entries.append(entry)
            self._db.execute("COMMIT")
        self._check_endpoint(entries, endpoint)
        return [entry if entry.endpoint == endpoint else replace(entry, endpoint=endpoint) for entry in entries]

    def _check_endpoint(self, entries: list[Entry], endpoint: str) -> None:
        away = [entry for entry in entries if entry.unfinished and entry.endpoint != endpoint]
        if away:
            raise LedgerMismatch(
                f"{len(away)} unfinished jobs of this folder belong to {away[0].endpoint}: "
                "finish them there first, or choose another output folder"
            )

    def record(self, entry: Entry) -> Entry:
        """Write the line down; it is on the disk when this returns."""
        with self._told():
            self._write(entry)
        return entry

    def close(self) -> None:
        """Let another process have the file."""
        self._db.close()

    def _all(self) -> list[Entry]:
        rows = self._db.execute(
            "SELECT fingerprint, key, endpoint, state, job_id, runs, seconds, reply, files, error FROM jobs"
        )
        return [_entry(row) for row in rows]

    def _write(self, entry: Entry) -> None:
        self._db.execute(
            "INSERT OR REPLACE INTO jobs (fingerprint, key, endpoint, state, job_id, runs, seconds, reply, files,"
            " error, changed_at) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                entry.fingerprint, entry.key, entry.endpoint, entry.state, entry.job_id, entry.runs, entry.seconds,
                _dump(entry.reply), json.dumps(entry.files), _dump(entry.error), time.time(),
            ),
        )


def _dump(value: dict[str, Any] | None) -> str | None:
    return None if value is None else json.dumps(value)


def _entry(row: tuple[Any, ...]) -> Entry:
    fingerprint, key, endpoint, state, job_id, runs, seconds, reply, files, error = row
    return Entry(
        fingerprint, key, endpoint, state, job_id, runs, seconds,
        json.loads(reply) if reply else None, json.loads(files), json.loads(error) if error else None,
    )
