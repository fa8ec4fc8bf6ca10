"""Where jobs, workers and waiting clients meet. Everything here runs on the event loop's thread.

The queue on disk knows the state of every job; this room knows who waits for news of it right now:
workers that hold a job-take open, workers that hold a job-stop open, clients that hold a /runsync open.
"""

from __future__ import annotations

import asyncio
import logging
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from darkroom.errors import Internal
from darkroom.local.job import Job, NewJob, Outcome, Work, failure
from darkroom.local.queue import JobQueue
from darkroom.local.roster import Hold, Roster, Seat

log = logging.getLogger(__name__)

LEAVING_POLL_SECONDS = 0.25
"""How long a leaving worker's poll is held: the SDK asks again without a pause until it has seen its SIGTERM."""


@dataclass(eq=False)
class Poll:
    """A job-take that is held open."""

    seat: Seat
    count: int
    answer: asyncio.Future[list[Work]] = field(default_factory=lambda: asyncio.get_running_loop().create_future())


class Dispatch:
    """Moves jobs between the queue, the workers and those who wait.

    `changed` is set whenever the supervisor should look again at what waits and who is up.
    """

    def __init__(self, queue: JobQueue, roster: Roster) -> None:
        self.queue = queue
        self.roster = roster
        self.changed = asyncio.Event()
        self.closing = asyncio.Event()
        self.webhook_due = asyncio.Event()
        self._polls: list[Poll] = []
        self._waiting: defaultdict[str, set[asyncio.Event]] = defaultdict(set)

    # -- for clients ----------------------------------------------------------------------------

    def submit(self, new: NewJob) -> Job:
        """Queue a job; a worker that waits gets it at once."""
        job = self.queue.submit(new)
        self._hand_out()
        return job

    async def ended(self, job: str, seconds: float) -> Job | None:
        """The job once it has ended, or as it stands after `seconds` or when the endpoint stops."""
        news = asyncio.Event()
        self._waiting[job].add(news)
        try:
            found = self.queue.get(job)
            if found is not None and not found.final and not self.closing.is_set():
                await first_of(seconds, news, self.closing)
                found = self.queue.get(job)
            return found
        finally:
            self._waiting[job].discard(news)
            if not self._waiting[job]:
                del self._waiting[job]

    def cancel(self, job: str) -> bool:
        """End the job and tell its worker to stop; False if it had ended or is unknown."""
        cancelled = self.queue.cancel(job)
        if cancelled is not None:
            self._over(cancelled)
        return cancelled is not None

    def retry(self, job: str) -> Job | None:
        """Queue a failed job again; None if it did not fail."""
        again = self.queue.retry(job)
        self._hand_out()
        return again

    def purge(self) -> int:
        """Cancel all that waits. Returns how many there were."""
        purged = self.queue.purge()
        for job in purged:
            self._over(job)
        return len(purged)

    # -- for workers ----------------------------------------------------------------------------

    async def take(self, seat: Seat, count: int, *, busy: bool, seconds: float,
                   gone: asyncio.Future[None] | None = None) -> list[Work]:
        """Up to `count` jobs as soon as there is one; none after `seconds`, or when the worker must leave.

        `busy` is the worker's own word on whether it works on anything; `gone` ends when it has hung up, for
        a job in an answer that nobody reads would be lost.
        """
        now = self.roster.now()
        seat.heard_at = now
        if seat.booting:
            seat.booting = False
            self.roster.unhealthy = 0
            self.changed.set()
        if not busy:
            self._settle(seat)
        if seat.leaving or self.closing.is_set():
            await asyncio.sleep(LEAVING_POLL_SECONDS)
            return []
        self._drop_polls(seat)
        poll = seat.poll = Poll(seat, count)
        self._polls.append(poll)
        if not seat.held and seat.idle_since is None:
            seat.idle_since = now
        self._hand_out()
        news: set[asyncio.Future[Any]] = {poll.answer} if gone is None else {poll.answer, gone}
        await asyncio.wait(news, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        if poll in self._polls:
            self._polls.remove(poll)
        if seat.poll is poll:
            seat.poll = None
        works = poll.answer.result() if poll.answer.done() else []
        if works and gone is not None and gone.done():
            self._put_back(seat, works)
            return []
        return works

    async def stops(self, seat: Seat, seconds: float) -> list[str]:
        """Ids of jobs that the worker must stop, each told once; none after `seconds`."""
        until = self.roster.now() + seconds
        while not seat.leaving and not self.closing.is_set():
            now = self.roster.now()
            due = {job: at for job, hold in seat.held.items()
                   if (at := hold.stop_due_at) is not None and not hold.stop_sent}
            if ripe := [job for job, at in due.items() if at <= now]:
                for job in ripe:
                    seat.held[job].stop_sent = True
                return ripe
            if now >= until:
                return []
            soonest = min(due.values(), default=until)
            seat.stop_news.clear()
            await first_of(min(soonest, until) - now, seat.stop_news, self.closing)
        await asyncio.sleep(LEAVING_POLL_SECONDS)
        return []

    def finish(self, seat: Seat, job: str, outcome: Outcome) -> bool:
        """Take a result; False if the job was no longer this worker's, and the result is void."""
        # In this order: a job whose end could not be written still has its holder, and so comes to an end.
        ended = self.queue.finish(job, seat.worker, outcome)
        seat.let_go(job, self.roster.now())
        if ended is None:
            log.info("worker %s: result of %s came too late and was dropped", seat.worker, job)
        else:
            self._over(ended)
        self.changed.set()
        return ended is not None

    # -- for the supervisor ---------------------------------------------------------------------

    def dismiss(self, seat: Seat) -> None:
        """Give this worker nothing more, and let its open polls return."""
        seat.leaving = True
        seat.leaving_since = self.roster.now()
        seat.stop_news.set()
        self._drop_polls(seat)

    def bury(self, worker: str) -> None:
        """A worker's process is gone: its jobs go to others, or fail.

        When the endpoint stops, it ends workers itself, which is no fault of their jobs: those are left as
        they are, and are handed out again at the next start.
        """
        seat = self.roster.leave(worker)
        if seat is not None:
            self.dismiss(seat)
        if self.closing.is_set():
            return
        for job in self.queue.lose(worker):
            log.warning("worker %s died while it ran %s: %s", worker, job.id,
                        "the job failed" if job.final else "the job waits for another worker")
            if job.final:
                self._over(job)
        self._hand_out()

    def expire(self) -> None:
        """End what outlived its ttl or execution timeout, and tell its workers to stop."""
        for job in self.queue.expire():
            log.info("%s timed out: %s", job.id, job.error)
            self._over(job)

    def close(self) -> None:
        """The endpoint stops: hand out nothing more, let every waiting request return."""
        self.closing.set()
        for poll in self._polls:
            poll.answer.set_result([])
        self._polls.clear()

    # -- inside ---------------------------------------------------------------------------------

    def _hand_out(self) -> None:
        """Match waiting polls with waiting jobs. The worker that asked last goes first, so that others fall idle."""
        while self._polls and (works := self.queue.take(self._polls[-1].seat.worker, self._polls[-1].count)):
            poll = self._polls.pop()
            now = self.roster.now()
            poll.seat.idle_since = None
            poll.seat.held |= {work.job.id: Hold(taken_at=now) for work in works}
            poll.answer.set_result(works)
        self.changed.set()

    def _put_back(self, seat: Seat, works: list[Work]) -> None:
        """The worker hung up in the moment of the hand-out: it never saw these jobs."""
        for work in works:
            seat.held.pop(work.job.id, None)
            self.queue.put_back(work.job.id, seat.worker)
        self._hand_out()

    def _drop_polls(self, seat: Seat) -> None:
        for poll in [poll for poll in self._polls if poll.seat is seat]:
            self._polls.remove(poll)
            poll.answer.set_result([])

    def _settle(self, seat: Seat) -> None:
        """The worker works on nothing: a job that it still held has no result and will get none.

        The SDK loses results that are no JSON or that it could not post, with a line in its log only.
        """
        for job in list(seat.held):
            lost = Internal("the worker ended the job, but its result never arrived; a result must be valid JSON")
            self._unanswered(seat, job, failure(lost))

    def _unanswered(self, seat: Seat, job: str, outcome: Outcome) -> None:
        """End a job that the worker may have been told to stop, in which case it has ended already."""
        ended = self.queue.finish(job, seat.worker, outcome)
        seat.let_go(job, self.roster.now())
        if ended is not None:
            log.warning("worker %s gave no result for %s", seat.worker, job)
            self._over(ended)

    def _over(self, job: Job) -> None:
        """Tell all who wait for the end of a job, and the worker that may still be busy with it."""
        for news in self._waiting.get(job.id, ()):
            news.set()
        seat = self.roster.get(job.worker) if job.worker else None
        if seat is not None and (hold := seat.held.get(job.id)) and hold.stop_asked_at is None:
            hold.stop_asked_at = self.roster.now()
            seat.stop_news.set()
        if job.webhook is not None:
            self.webhook_due.set()
        self.changed.set()


async def first_of(seconds: float, *events: asyncio.Event) -> None:
    """Return when one of the events is set, or after `seconds`."""
    waits: Iterable[asyncio.Task[bool]] = {asyncio.ensure_future(event.wait()) for event in events}
    try:
        await asyncio.wait(waits, timeout=max(0.0, seconds), return_when=asyncio.FIRST_COMPLETED)
    finally:
        for wait in waits:
            wait.cancel()
