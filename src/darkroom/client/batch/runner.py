"""n jobs in flight, each taken from its recorded state to its end.

A job's line is written before the step that costs money and after every step that brings news, so a
batch that is stopped at any moment goes on from there: planned jobs are submitted under the key that
the ledger already holds, running ones are asked for by id, finished ones only downloaded.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from darkroom.client.asynchronous import AsyncClient
from darkroom.client.batch.ledger import Entry, Ledger
from darkroom.client.batch.plan import Planned
from darkroom.client.errors import BadReply, DownloadFailed, JobFailed, JobLost, RequestRefused
from darkroom.client.files import intact, save_pictures
from darkroom.client.protocol import Progress
from darkroom.client.replies import EditReply, JobHandle, job_reply
from darkroom.client.retry import Retry
from darkroom.errors import BadJob

Listener = Callable[[Planned, Entry], None]


@dataclass(frozen=True)
class Summary:
    """How a batch ended. A job counts as failed when any prompt of it did; `usd` includes earlier runs."""

    total: int
    done: int
    failed: int
    usd: float
    seconds: float


class Batch:
    """One plan, one ledger, one endpoint. `listen` hears of every job that ends, those of earlier runs too;
    `progress` of every change of a running one."""

    def __init__(
        self,
        plan: Sequence[Planned],
        ledger: Ledger,
        client: AsyncClient,
        out: Path,
        *,
        in_flight: int = 4,
        retry: Retry | None = None,
        retry_failed: bool = False,
        listen: Listener | None = None,
        progress: Progress | None = None,
    ) -> None:
        if in_flight < 1:
            raise ValueError("in_flight must be at least 1")
        self._plan = plan
        self._ledger = ledger
        self._client = client
        self._out = out
        self._in_flight = in_flight
        self._retry = retry or Retry()
        self._retry_failed = retry_failed
        self._progress = progress
        # Both count within this run, by position: the next run starts with fresh patience.
        self._losses: Counter[int] = Counter()
        self._troubles: Counter[int] = Counter()
        self._listen = listen or (lambda planned, entry: None)
        self.entries = ledger.enter(plan, client.endpoint)

    async def run(self) -> Summary:
        """Bring every job to its end.

        Raises EndpointUnreachable, Unauthorized, RateLimited or LedgerUnwritable: what stops one job so stops
        all, and the ledger keeps what was reached.
        """
        started = time.monotonic()
        waiting = self._unfinished()
        lanes = min(self._in_flight, len(waiting))
        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(lanes):
                    group.create_task(self._lane(waiting))
        except ExceptionGroup as group:
            raise _first(group) from None
        return self.summary(time.monotonic() - started)

    def summary(self, seconds: float) -> Summary:
        """Counts and dollars as the ledger has them now."""
        ended = [entry for entry in self.entries if entry.state in ("done", "failed")]
        failed = sum(bool(entry.faults) for entry in ended)
        return Summary(len(self.entries), len(ended) - failed, failed, sum(entry.usd for entry in ended), seconds)

    def _unfinished(self) -> deque[int]:
        """Positions to work on: those that may be running first, since their results expire."""
        waiting: list[int] = []
        for index, entry in enumerate(self.entries):
            if entry.state == "done" and not intact(self._out, entry.files):
                entry = self._again(index, entry)
            if entry.state == "failed" and (self._retry_failed or (entry.error or {}).get("retryable")):
                entry = self._again(index, entry)
            if entry.state in ("done", "failed"):
                self._listen(self._plan[index], entry)
            else:
                waiting.append(index)
        return deque(sorted(waiting, key=lambda index: self.entries[index].state == "planned"))

    def _again(self, index: int, entry: Entry) -> Entry:
        """From where nothing is paid twice: what the reply links to, the running job, or the same key anew."""
        entry = replace(entry, state=entry.resume, error=None, runs=0)
        if entry.state == "planned":
            entry = replace(entry, job_id=None, reply=None)
        return self._keep(index, entry)

    async def _lane(self, waiting: deque[int]) -> None:
        while waiting:
            index = waiting.popleft()
            await self._settle(index)
            self._listen(self._plan[index], self.entries[index])

    async def _settle(self, index: int) -> None:
        """From the recorded state to done or failed."""
        while (entry := self.entries[index]).state not in ("done", "failed"):
            try:
                await self._step(index, entry)
            except JobFailed as error:
                await self._failed(index, self.entries[index], error)
            except DownloadFailed as error:
                await self._not_downloaded(index, self.entries[index], error)
            except (BadReply, OSError) as error:
                await self._troubled(index, self.entries[index], error)
            except (RequestRefused, BadJob, ValueError) as error:
                self._give_up(index, self.entries[index], _fault(error))

    async def _step(self, index: int, entry: Entry) -> None:
        if entry.state == "planned":
            request = self._plan[index].request()
            handle = await self._client.submit({**request, "idempotency_key": entry.key})
            self._keep(index, replace(entry, state="running", job_id=handle.id, runs=entry.runs + 1))
        elif entry.state == "running":
            await self._wait(index, entry)
        else:
            await self._download(index, entry)

    async def _wait(self, index: int, entry: Entry) -> None:
        started = time.monotonic()
        handle = JobHandle(id=entry.job_id or "", idempotency_key=entry.key)
        status = await self._client.wait(handle, progress=self._progress)
        reply = job_reply(EditReply, status, entry.key)
        seconds = (status.execution_ms or 1000 * (time.monotonic() - started)) / 1000
        self._keep(index, replace(entry, state="rendered", reply=reply.model_dump(mode="json"), seconds=seconds))

    async def _download(self, index: int, entry: Entry) -> None:
        planned = self._plan[index]
        reply = EditReply.model_validate(entry.reply)
        files = await save_pictures(self._client, reply, self._out, _stem(planned, entry))
        self._keep(index, replace(entry, state="done", files=files, reply=_without_bytes(entry.reply or {})))

    async def _failed(self, index: int, entry: Entry, error: JobFailed) -> None:
        """Again under the same key where that may help; a lost job does not count as a run."""
        lost = isinstance(error, JobLost)
        self._losses[index] += lost
        runs = entry.runs - lost
        tries = self._losses[index] if lost else runs
        if error.retryable and tries < self._retry.job_attempts:
            self._keep(index, replace(entry, state="planned", job_id=None, runs=runs))
            await asyncio.sleep(self._retry.backoff(max(1, tries)))
        else:
            self._give_up(index, entry, _fault(error))

    async def _troubled(self, index: int, entry: Entry, error: BadReply | OSError) -> None:
        """A disk or an answer that is out of order says nothing about the job, which may be paid: keep its state."""
        if isinstance(error, OSError) and entry.state == "planned":
            self._give_up(index, entry, _fault(error))
            return
        self._troubles[index] += 1
        if self._troubles[index] < self._retry.job_attempts:
            await asyncio.sleep(self._retry.backoff(self._troubles[index]))
        else:
            self._give_up(index, entry, {**_fault(error), "retryable": True, "resume": entry.state})

    async def _not_downloaded(self, index: int, entry: Entry, error: DownloadFailed) -> None:
        """A link that has expired is made anew by submitting under the same key: the worker replays the result."""
        if error.status in (401, 403, 404, 410) and entry.runs < self._retry.job_attempts:
            self._keep(index, replace(entry, state="planned", job_id=None, reply=None))
            return
        # The reply stays in the line: the next run of the batch only downloads again.
        self._give_up(index, entry, {**_fault(error), "retryable": True})

    def _give_up(self, index: int, entry: Entry, fault: dict[str, Any]) -> None:
        self._keep(index, replace(entry, state="failed", error=fault))

    def _keep(self, index: int, entry: Entry) -> Entry:
        self.entries[index] = self._ledger.record(entry)
        return entry


def _first(group: ExceptionGroup[Exception]) -> Exception:
    """The first of a group's errors; the other lanes met the same one or were cancelled by it."""
    error = group.exceptions[0]
    return _first(error) if isinstance(error, ExceptionGroup) else error


def _fault(error: Exception) -> dict[str, Any]:
    code = getattr(error, "code", None) or type(error).__name__
    return {
        "code": str(code),
        "message": str(error),
        "retryable": bool(getattr(error, "retryable", False)),
        "details": getattr(error, "details", {}),
    }


def _stem(planned: Planned, entry: Entry) -> str:
    """'0007_photo_1a2b3c': sorted as the list, named as the picture, and never another job's."""
    first = planned.images[0]
    name = Path(first).stem if not first.startswith("data:") else "picture"
    safe = "".join(c if c.isalnum() or c in "-_" else "-" for c in name)[:40].strip("-") or "picture"
    return f"{planned.position:04d}_{safe}_{entry.fingerprint[:6]}"


def _without_bytes(reply: dict[str, Any]) -> dict[str, Any]:
    """The reply for the record: pictures that came inside it are files now."""
    images = [{**image, "url": None} if str(image.get("url", "")).startswith("data:") else image
              for image in reply.get("images", [])]
    slim = {**reply, "images": images}
    if str(slim.get("image_url", "")).startswith("data:"):
        slim["image_url"] = None
    return slim
