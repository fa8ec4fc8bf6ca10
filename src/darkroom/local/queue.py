"""The durable queue: every change of a job's state is one SQLite transaction.

    IN_QUEUE ──take──▶ IN_PROGRESS ──finish──▶ COMPLETED | FAILED
    IN_PROGRESS ──lose, put_back, recover──▶ IN_QUEUE, and ──lose──▶ FAILED after too many deaths
    IN_QUEUE | IN_PROGRESS ──cancel, purge, expire──▶ CANCELLED | TIMED_OUT
    FAILED | TIMED_OUT ──retry──▶ IN_QUEUE

A job is ended by exactly one of these arrows. A worker can move only a job that it holds: what a
worker says of a job that was taken from it is refused, so a late result never ends a job twice.
WAL with synchronous=NORMAL: what was acknowledged survives a kill of the process at any instant; a
power cut may take back the last moments, but never leaves the file inconsistent.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from darkroom.errors import Internal, TimedOut
from darkroom.local.job import RETRYABLE, Job, NewJob, Outcome, Work, failure

# Inputs have a table of their own: SQLite rewrites a whole row for every change of it, and an input is megabytes.
SCHEMA = """
CREATE TABLE IF NOT EXISTS jobs (
    id TEXT PRIMARY KEY,
    status TEXT NOT NULL,
    position INTEGER NOT NULL,
    sync INTEGER NOT NULL,
    low_priority INTEGER NOT NULL,
    webhook TEXT,
    execution_timeout REAL NOT NULL,
    ttl REAL NOT NULL,
    keep REAL NOT NULL,
    queued_at REAL NOT NULL,
    started_at REAL,
    ended_at REAL,
    worker TEXT,
    losses INTEGER NOT NULL DEFAULT 0,
    progress TEXT,
    output TEXT,
    error TEXT,
    webhook_due REAL,
    webhook_tries INTEGER NOT NULL DEFAULT 0
);
CREATE TABLE IF NOT EXISTS inputs (job TEXT PRIMARY KEY, input TEXT NOT NULL, s3_config TEXT);
CREATE INDEX IF NOT EXISTS jobs_by_turn ON jobs (status, low_priority, position, queued_at);
CREATE INDEX IF NOT EXISTS jobs_by_position ON jobs (position);
CREATE INDEX IF NOT EXISTS jobs_by_expiry ON jobs (queued_at + ttl) WHERE status IN ('IN_QUEUE', 'IN_PROGRESS');
CREATE INDEX IF NOT EXISTS jobs_by_webhook ON jobs (webhook_due) WHERE webhook_due IS NOT NULL;
CREATE TABLE IF NOT EXISTS chunks (number INTEGER PRIMARY KEY AUTOINCREMENT, job TEXT NOT NULL, chunk TEXT NOT NULL);
CREATE INDEX IF NOT EXISTS chunks_by_job ON chunks (job, number);
CREATE TABLE IF NOT EXISTS totals (name TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID;
"""
VERSION = 1
JOB_COLUMNS = ", ".join(field.name for field in fields(Job))
TOTALS = ("completed", "failed", "retried")


@dataclass(frozen=True)
class Load:
    """How much there is to do: jobs by state, and the seconds that the oldest job of normal priority waits."""

    queued: int
    queued_low_priority: int
    running: int
    oldest_wait: float


class JobQueue:
    """Jobs in a file. One process, one thread; methods neither block on I/O for long nor await.

    Raises RuntimeError for a file that a later version of Darkroom wrote.
    """

    def __init__(self, path: Path, *, max_attempts: int = 3, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._max_attempts = max_attempts
        self._db = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        path.chmod(0o600)
        self._db.row_factory = sqlite3.Row
        self._db.create_function("receiver", 1, lambda webhook: urlsplit(webhook).netloc, deterministic=True)
        for pragma in ("auto_vacuum=INCREMENTAL", "journal_mode=WAL", "synchronous=NORMAL"):
            self._db.execute(f"PRAGMA {pragma}")
        version = self._db.execute("PRAGMA user_version").fetchone()[0]
        if version > VERSION:
            raise RuntimeError(f"the queue was written by a later version of Darkroom (format {version})")
        self._db.executescript(SCHEMA)
        self._db.execute(f"PRAGMA user_version={VERSION}")

    def close(self) -> None:
        """Let go of the file. The queue is unusable afterwards."""
        self._db.close()

    # -- arrows ---------------------------------------------------------------------------------

    def submit(self, new: NewJob) -> Job:
        """Put a job at the end of the queue. Raises ValueError if its id is taken."""
        with self._transaction():
            try:
                self._db.execute("INSERT INTO inputs VALUES (?, ?, ?)", (new.id, new.input, new.s3_config))
            except sqlite3.IntegrityError:
                raise ValueError(f"there is a job {new.id} already") from None
            return self._one(
                f"""INSERT INTO jobs (id, status, position, sync, low_priority, webhook,
                                      execution_timeout, ttl, keep, queued_at)
                    VALUES (?, 'IN_QUEUE', {NEXT_POSITION}, ?, ?, ?, ?, ?, ?, ?) RETURNING {JOB_COLUMNS}""",
                new.id, new.sync, new.low_priority, new.webhook,
                new.execution_timeout, new.ttl, new.keep, self._clock(),
            )

    def take(self, worker: str, count: int = 1) -> list[Work]:
        """Hand the next jobs to a worker: normal before low priority, then first come, first served."""
        now = self._clock()
        with self._transaction():
            turn = self._db.execute(
                """SELECT id FROM jobs WHERE status = 'IN_QUEUE' AND queued_at + ttl > ?
                   ORDER BY low_priority, position LIMIT ?""", (now, count)).fetchall()
            return [self._handed(row["id"], worker, now) for row in turn]

    def finish(self, job: str, worker: str, outcome: Outcome) -> Job | None:
        """End a job with its worker's result; None (and no change) unless that worker holds it."""
        with self._transaction():
            return self._end(job, outcome, "status = 'IN_PROGRESS' AND worker = ?", worker)

    def cancel(self, job: str) -> Job | None:
        """End a job that waits or runs; None if it had ended or is unknown."""
        with self._transaction():
            return self._end(job, Outcome("CANCELLED"), "status IN ('IN_QUEUE', 'IN_PROGRESS')")

    def purge(self) -> list[Job]:
        """Cancel everything that waits. Running jobs are left alone."""
        with self._transaction():
            waiting = self._ids("status = 'IN_QUEUE'")
            return [ended for id in waiting if (ended := self._end(id, Outcome("CANCELLED"), "TRUE"))]

    def retry(self, job: str) -> Job | None:
        """Queue a failed or timed-out job again under its id, without its output; None if it is in another state."""
        with self._transaction():
            states = ", ".join(f"'{status}'" for status in sorted(RETRYABLE))
            again = self._maybe(
                f"""UPDATE jobs SET status = 'IN_QUEUE', position = {NEXT_POSITION}, queued_at = ?, {BLANK},
                                    losses = 0, ended_at = NULL, webhook_due = NULL, webhook_tries = 0
                    WHERE id = ? AND status IN ({states}) RETURNING {JOB_COLUMNS}""", self._clock(), job)
            if again:
                self._drop_chunks(job)
                self._count("retried")
            return again

    def lose(self, worker: str) -> list[Job]:
        """A worker died: its jobs go back to their place in the queue, or fail after `max_attempts` deaths."""
        with self._transaction():
            return [self._lost(id) for id in self._ids("status = 'IN_PROGRESS' AND worker = ?", worker)]

    def put_back(self, job: str, worker: str) -> bool:
        """Undo a hand-out that never reached its worker; False unless that worker is the holder."""
        with self._transaction():
            holds = self._ids("id = ? AND status = 'IN_PROGRESS' AND worker = ?", job, worker)
            for id in holds:
                self._requeue(id, losses=0)
            return bool(holds)

    def recover(self) -> int:
        """The endpoint starts, so no worker lives: running jobs wait again. Returns how many there were."""
        with self._transaction():
            running = self._ids("status = 'IN_PROGRESS'")
            for id in running:
                self._requeue(id, losses=0)
            return len(running)

    def expire(self) -> list[Job]:
        """End every job that outlived its ttl, or its execution timeout."""
        now = self._clock()
        with self._transaction():
            old = [row["id"] for row in self._db.execute(
                """SELECT id FROM jobs INDEXED BY jobs_by_expiry
                   WHERE status IN ('IN_QUEUE', 'IN_PROGRESS') AND queued_at + ttl <= ?""", (now,)).fetchall()]
            slow = self._ids("status = 'IN_PROGRESS' AND started_at + execution_timeout <= ?", now)
            return [*(self._timed_out(id, "ttl") for id in old),
                    *(self._timed_out(id, "execution_timeout") for id in slow if id not in old)]

    # -- while a job runs -----------------------------------------------------------------------

    def progress(self, job: str, worker: str, output: str) -> bool:
        """Keep a progress update (a JSON text); False unless that worker holds the job."""
        changed = self._db.execute(
            "UPDATE jobs SET progress = ? WHERE id = ? AND worker = ? AND status = 'IN_PROGRESS'",
            (output, job, worker))
        return changed.rowcount == 1

    def add_chunk(self, job: str, worker: str, chunk: str) -> bool:
        """Keep a piece of streamed output (a JSON text); False unless that worker holds the job."""
        added = self._db.execute(
            """INSERT INTO chunks (job, chunk) SELECT id, ? FROM jobs
               WHERE id = ? AND worker = ? AND status = 'IN_PROGRESS'""", (chunk, job, worker))
        return added.rowcount == 1

    def read_chunks(self, job: str) -> list[str]:
        """The pieces that were not read yet, in order; each is given once."""
        with self._transaction():
            rows = self._db.execute("SELECT chunk FROM chunks WHERE job = ? ORDER BY number", (job,)).fetchall()
            self._drop_chunks(job)
        return [row["chunk"] for row in rows]

    # -- looking --------------------------------------------------------------------------------

    def get(self, job: str) -> Job | None:
        """The job, or None where it is unknown or its result's time is over."""
        return self._maybe(f"SELECT {JOB_COLUMNS} FROM jobs WHERE id = ? AND NOT {FORGOTTEN}", job, self._clock())

    def load(self) -> Load:
        """What waits and what runs."""
        row = self._db.execute(
            """SELECT COALESCE(SUM(status = 'IN_QUEUE' AND NOT low_priority), 0),
                      COALESCE(SUM(status = 'IN_QUEUE' AND low_priority), 0),
                      COALESCE(SUM(status = 'IN_PROGRESS'), 0),
                      MIN(CASE WHEN status = 'IN_QUEUE' AND NOT low_priority THEN queued_at END)
               FROM jobs WHERE status IN ('IN_QUEUE', 'IN_PROGRESS')""").fetchone()
        oldest = 0.0 if row[3] is None else max(0.0, self._clock() - row[3])
        return Load(queued=row[0], queued_low_priority=row[1], running=row[2], oldest_wait=oldest)

    def totals(self) -> dict[str, int]:
        """Jobs completed, failed (timed out ones included) and retried since the queue was made."""
        rows = self._db.execute("SELECT name, value FROM totals").fetchall()
        return {**dict.fromkeys(TOTALS, 0), **{row["name"]: row["value"] for row in rows}}

    # -- after the end --------------------------------------------------------------------------

    def due_webhooks(self, limit: int = 100, per_receiver: int = 100) -> list[str]:
        """Ids of ended jobs whose webhook must be called now, every receiver's oldest first.

        At most `limit`, and at most `per_receiver` for one host and port, so that one that does not answer leaves
        room for the others. A call under way is due until it is noted.
        """
        rows = self._db.execute(
            """SELECT id FROM (
                 SELECT id, webhook_due, ROW_NUMBER() OVER (PARTITION BY receiver(webhook) ORDER BY webhook_due, id)
                   AS turn FROM jobs WHERE webhook_due <= ?)
               WHERE turn <= ? ORDER BY turn, webhook_due LIMIT ?""", (self._clock(), per_receiver, limit))
        return [row["id"] for row in rows.fetchall()]

    def due_webhook(self, job: str) -> Job | None:
        """The job as it stands now, if its webhook must be called now; its result's time may be over."""
        return self._maybe(f"SELECT {JOB_COLUMNS} FROM jobs WHERE id = ? AND webhook_due <= ?", job, self._clock())

    def webhook_answered(self, job: Job, *, accepted: bool, attempts: int, delay: float) -> None:
        """Note one call. A refused one is due again after `delay` seconds, `attempts` times in all.

        `job` is the row that was sent: if it was retried meanwhile, the note is void.
        """
        over = accepted or job.webhook_tries + 1 >= attempts
        self._db.execute(
            """UPDATE jobs SET webhook_due = ?, webhook_tries = webhook_tries + 1
               WHERE id = ? AND ended_at = ? AND webhook_due IS NOT NULL""",
            (None if over else self._clock() + delay, job.id, job.ended_at))

    def forget(self) -> int:
        """Delete the results whose time is over; those with a webhook still due stay. Returns how many went."""
        with self._transaction():
            gone = self._ids(f"{FORGOTTEN} AND webhook_due IS NULL", self._clock())
            for id in gone:
                self._drop_chunks(id)
                self._db.execute("DELETE FROM inputs WHERE job = ?", (id,))
                self._db.execute("DELETE FROM jobs WHERE id = ?", (id,))
        if gone:
            self._db.execute("PRAGMA incremental_vacuum").fetchall()
        return len(gone)

    # -- inside a transaction -------------------------------------------------------------------

    def _handed(self, job: str, worker: str, now: float) -> Work:
        row = self._one(
            f"""UPDATE jobs SET status = 'IN_PROGRESS', worker = ?, started_at = ?, progress = NULL
                WHERE id = ? RETURNING {JOB_COLUMNS}""", worker, now, job)
        sent = self._db.execute("SELECT input, s3_config FROM inputs WHERE job = ?", (job,)).fetchone()
        return Work(row, input=sent["input"], s3_config=sent["s3_config"])

    def _end(self, job: str, outcome: Outcome, condition: str, *values: object) -> Job | None:
        now = self._clock()
        ended = self._maybe(
            f"""UPDATE jobs SET status = ?, output = ?, error = ?, progress = NULL, ended_at = ?,
                                webhook_due = CASE WHEN webhook IS NULL THEN NULL ELSE ? END
                WHERE id = ? AND {condition} RETURNING {JOB_COLUMNS}""",
            outcome.status, outcome.output, outcome.error, now, now, job, *values)
        if ended and outcome.status != "CANCELLED":
            self._count("completed" if outcome.status == "COMPLETED" else "failed")
        return ended

    def _lost(self, job: str) -> Job:
        losses = 1 + self._one(f"SELECT {JOB_COLUMNS} FROM jobs WHERE id = ?", job).losses
        if losses < self._max_attempts:
            self._count("retried")
            return self._requeue(job, losses=1)
        times = "once" if losses == 1 else f"{losses} times"
        died = Internal(f"the worker process ended {times} while it ran this job", details={"workers_lost": losses})
        ended = self._end(job, failure(died), "TRUE")
        assert ended is not None
        return ended

    def _requeue(self, job: str, *, losses: int) -> Job:
        self._drop_chunks(job)
        return self._one(
            f"UPDATE jobs SET status = 'IN_QUEUE', losses = losses + ?, {BLANK} WHERE id = ? RETURNING {JOB_COLUMNS}",
            losses, job)

    def _timed_out(self, job: str, limit: str) -> Job:
        row = self._one(f"SELECT {JOB_COLUMNS} FROM jobs WHERE id = ?", job)
        if limit == "ttl":
            sentence = f"the job was not done {row.ttl:g} s after it was submitted (ttl)"
        else:
            sentence = f"the job ran longer than {row.execution_timeout:g} s (executionTimeout)"
        ended = self._end(job, failure(TimedOut(sentence), "TIMED_OUT"), "TRUE")
        assert ended is not None
        return ended

    def _drop_chunks(self, job: str) -> None:
        self._db.execute("DELETE FROM chunks WHERE job = ?", (job,))

    def _count(self, total: str) -> None:
        self._db.execute(
            "INSERT INTO totals VALUES (?, 1) ON CONFLICT (name) DO UPDATE SET value = value + 1", (total,))

    def _ids(self, condition: str, *values: object) -> list[str]:
        rows = self._db.execute(f"SELECT id FROM jobs WHERE {condition} ORDER BY position", values).fetchall()
        return [row["id"] for row in rows]

    def _one(self, sql: str, *values: object) -> Job:
        job = self._maybe(sql, *values)
        assert job is not None
        return job

    def _maybe(self, sql: str, *values: object) -> Job | None:
        rows = self._db.execute(sql, values).fetchall()
        return _job(rows[0]) if rows else None

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            if self._db.in_transaction:  # a full disk has ended it already
                self._db.execute("ROLLBACK")
            raise
        self._db.execute("COMMIT")


NEXT_POSITION = "(SELECT COALESCE(MAX(position), 0) + 1 FROM jobs)"
BLANK = "worker = NULL, started_at = NULL, progress = NULL, output = NULL, error = NULL"
FORGOTTEN = "(ended_at IS NOT NULL AND ended_at + keep <= ?)"


def _job(row: sqlite3.Row) -> Job:
    values: dict[str, Any] = dict(row)
    return Job(**{**values, "sync": bool(values["sync"]), "low_priority": bool(values["low_priority"])})
