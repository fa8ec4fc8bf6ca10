"""Cold and warm jobs against any endpoint, timed by the client and by the worker.

A cold job meets no live worker: it waits for one to boot. A warm job meets workers that have all run a
job before. Every job edits a picture of its own, so that no cache of encodings flatters the result.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from darkroom.client import AsyncClient, ClientError, EditReply, JobFailed, JobStatus, Polling, WaitTimeout

POLLING = Polling(least_seconds=0.02, most_seconds=0.1, share=0.02)
"""The wall clock is at most this much too long: 20 ms, or 2 % of a longer job."""
BUSY_SECONDS = 60.0
WARM_UP_ROUNDS = 20
WARM_UP_PAUSE_SECONDS = 0.5
PATIENCE_SECONDS = 1_800.0
"""A job that is not done by then never will be: twice the time that a worker of ours may take to boot."""

Kind = Literal["cold", "warm"]
Request = Callable[[int], Mapping[str, Any]]
"""Number of a job -> its input."""


@dataclass(frozen=True)
class Sample:
    """One job: seen by the client (`wall_ms`), by the platform (delay, execution) and by the worker (`timings`)."""

    kind: Kind
    wall_ms: float
    timings: dict[str, float] = field(default_factory=dict)
    delay_ms: float | None = None
    execution_ms: float | None = None
    was_cold: bool = False
    """The worker's own word; a warm job may still meet a new worker."""
    worker_id: str | None = None
    images: int = 0
    gpu: str | None = None
    gpu_seconds: float | None = None
    error: str | None = None


@dataclass(frozen=True)
class Warm:
    """Warm jobs and the seconds from the first submission to the last reply."""

    samples: list[Sample]
    seconds: float


class Worries:
    """Progress of one job that says on stderr, once each, why no worker takes it."""

    def __init__(self) -> None:
        self.last = ""

    def __call__(self, status: JobStatus) -> None:
        """Tell a problem that is new."""
        if status.problem and status.problem != self.last:
            self.last = status.problem
            print(f"no worker takes the job: {status.problem}", file=sys.stderr, flush=True)


async def timed(client: AsyncClient, kind: Kind, job_input: Mapping[str, Any]) -> Sample:
    """One job from submission to reply. A job that fails is a sample with an error, not an exception.

    Raises ClientError for a job that is not done after PATIENCE_SECONDS, and takes it back.
    """
    started = time.perf_counter()
    worries = Worries()
    try:
        done = await client.run(job_input, progress=worries, timeout_seconds=PATIENCE_SECONDS)
        reply = EditReply.model_validate(done.model_dump())
    except JobFailed as error:
        return Sample(kind, 1000 * (time.perf_counter() - started), error=error.code)
    except WaitTimeout as error:
        await client.cancel(error.job_id)
        why = f": {worries.last}" if worries.last else ""
        raise ClientError(f"a {kind} job was not done after {PATIENCE_SECONDS:g} s{why}") from None
    wall_ms = 1000 * (time.perf_counter() - started)
    timings = {name: float(value) for name, value in reply.timings.items()
               if name.endswith("_ms") and isinstance(value, int | float)}
    return Sample(
        kind, wall_ms, timings, reply.delay_ms, reply.execution_ms, reply.cold, reply.worker_id,
        len(reply.images), reply.cost.gpu, reply.cost.gpu_seconds,
    )


async def wait_until_cold(client: AsyncClient, idle_seconds: float, poll_seconds: float = 1.0) -> None:
    """Until /health counts no worker, or nothing has run for `idle_seconds`, the endpoint's idle timeout and some.

    RunPod goes on counting workers that sleep, so that silence is the only sure sign there.
    Raises ClientError where other callers keep the endpoint busy for ten times as long.
    """
    started = quiet_since = time.monotonic()
    while (health := await client.health()).workers.alive > 0:
        now = time.monotonic()
        if health.jobs.in_queue or health.jobs.in_progress or health.workers.running:
            quiet_since = now
        if now - quiet_since >= idle_seconds:
            return
        if now - started > 10 * idle_seconds + BUSY_SECONDS:
            raise ClientError("other jobs keep this endpoint warm: a cold start cannot be measured now")
        await asyncio.sleep(poll_seconds)


async def warm_jobs(
    client: AsyncClient, request: Request, jobs: int, concurrency: int,
    tell: Callable[[Sample], None] = lambda sample: None,
) -> Warm:
    """Time `jobs` jobs, `concurrency` at a time, after rounds of untimed ones until none met a new worker."""
    await _warm_up(client, request, concurrency)
    waiting, samples = deque(range(jobs)), list[Sample]()

    async def lane() -> None:
        while waiting:
            sample = await timed(client, "warm", request(waiting.popleft()))
            samples.append(sample)
            tell(sample)

    started = time.perf_counter()
    await asyncio.gather(*(lane() for _ in range(concurrency)))
    return Warm(samples, time.perf_counter() - started)


async def _warm_up(client: AsyncClient, request: Request, concurrency: int) -> None:
    for number in range(WARM_UP_ROUNDS):
        first = -(number + 1) * concurrency
        jobs = [timed(client, "warm", request(first + lane)) for lane in range(concurrency)]
        samples = await asyncio.gather(*jobs)
        # A worker that is still booting would meet its first job among the timed ones.
        booting = (await client.health()).workers.initializing
        if not booting and not any(sample.was_cold for sample in samples):
            return
        await asyncio.sleep(WARM_UP_PAUSE_SECONDS if booting else 0.0)
