"""Who is at work: what the endpoint remembers of each worker while it lives. Seconds are monotonic."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

STOP_AFTER_TAKE_SECONDS = 1.0
"""The SDK forgets a stop signal for a job that it has not begun, and begins one up to 0.1 s after it took it."""


@dataclass
class Hold:
    """A job in a worker's hands."""

    taken_at: float
    stop_asked_at: float | None = None
    stop_sent: bool = False

    @property
    def stop_due_at(self) -> float | None:
        """When the worker may be told to stop, or None while nobody wants it to."""
        if self.stop_asked_at is None:
            return None
        return max(self.stop_asked_at, self.taken_at + STOP_AFTER_TAKE_SECONDS)


@dataclass
class Seat:
    """One worker. It is booting until it first asks for a job; a `leaving` one gets no more jobs; `refresh` says
    that it asked for a restart; `heard_at` is its last sign of life.

    A worker is idle while it holds no job and asks for one: `poll` is its open job-take. (The SDK pauses for up
    to a second before it asks.)
    """

    worker: str
    since: float
    heard_at: float
    booting: bool = True
    leaving: bool = False
    refresh: bool = False
    poll: object | None = None
    idle_since: float | None = None
    leaving_since: float | None = None
    held: dict[str, Hold] = field(default_factory=dict)
    ailment: str | None = None
    """What the worker's own fitness check said is wrong with it."""
    stop_news: asyncio.Event = field(default_factory=asyncio.Event)

    def let_go(self, job: str, now: float) -> None:
        """The worker no longer works on `job`."""
        if self.held.pop(job, None) is not None and not self.held and self.poll is not None:
            self.idle_since = now


class Roster:
    """The seats of all living workers, by worker id."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.now = clock
        self.unhealthy = 0
        """Workers in a row that ended before they asked for a job."""
        self.problem = ""
        """Why the last of them did, in a sentence."""
        self._seats: dict[str, Seat] = {}

    def __iter__(self) -> Iterator[Seat]:
        return iter(list(self._seats.values()))

    def get(self, worker: str) -> Seat | None:
        """The worker's seat, or None if it never had one or is gone."""
        return self._seats.get(worker)

    def join(self, worker: str) -> Seat:
        """A worker process was started."""
        seat = self._seats[worker] = Seat(worker, since=self.now(), heard_at=self.now())
        return seat

    def leave(self, worker: str) -> Seat | None:
        """A worker process ended."""
        return self._seats.pop(worker, None)

    def pardon(self, seconds: float) -> None:
        """This process stood still so long (a suspended laptop): nobody could be heard meanwhile."""
        for seat in self:
            seat.heard_at += seconds
            seat.since += seconds
