"""The one thread that runs torch, and how a job's work is driven on it: cancel, time limit, error translation."""

from __future__ import annotations

import asyncio
import threading
import time
import traceback
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

from darkroom.errors import Cancelled, DarkroomError, GpuFault, Internal, OutOfMemory, TimedOut
from darkroom.faults import is_device_fault, is_out_of_memory
from darkroom.workers.recipe import Event, Work

OOM_BEFORE_REFRESH = 2
"""So many jobs in a row without memory mean that the memory is lost to fragments or a leak, not to the jobs."""

T = TypeVar("T")
Listen = Callable[[Event], None]


@dataclass(frozen=True)
class Outcome:
    """What a recipe returned, and the seconds that it held the torch thread."""

    fields: dict[str, Any]
    seconds: float


class Runner:
    """Runs one job's work at a time on one dedicated thread; the event loop stays free to hear stop signals."""

    def __init__(self, job_seconds: float, threads: int | None = None) -> None:
        # OpenMP counts its threads per calling thread, so the number is set on the one that will compute.
        self._thread = ThreadPoolExecutor(1, "torch", initializer=_use_threads, initargs=(threads,))
        self._job_seconds = job_seconds
        self._out_of_memory_in_a_row = 0

    async def call(self, function: Callable[[], Any]) -> Any:
        """Run `function` on the torch thread and wait until it has really come back, cancelled or not."""
        return await _settled(self._thread.submit(function), threading.Event())

    async def run(self, start: Callable[[], Work], listen: Listen) -> Outcome:
        """Drive a recipe to its end.

        `listen` hears every file and all progress, on the torch thread. Between any two yields the work is dropped
        when the surrounding task has been cancelled or the time is up, which counts from the job's turn on the
        thread. Raises CancelledError only when the thread is done with the job, otherwise a DarkroomError whatever
        went wrong.
        """
        stop = threading.Event()

        def drive() -> Outcome:
            began = time.perf_counter()
            try:
                fields = self._drive(start, listen, stop)
            except DarkroomError:
                raise
            except Exception as error:  # the only broad except: every fault of a recipe becomes a code here
                raise self._translated(error) from error
            self._out_of_memory_in_a_row = 0
            return Outcome(fields, time.perf_counter() - began)

        return await _settled(self._thread.submit(drive), stop)

    def close(self) -> None:
        """Wait for the running job and let the thread go."""
        self._thread.shutdown(wait=True)

    def _drive(self, start: Callable[[], Work], listen: Listen, stop: threading.Event) -> dict[str, Any]:
        deadline = time.monotonic() + self._job_seconds
        if stop.is_set():
            raise Cancelled("the job was cancelled before it began")
        work = start()
        try:
            while True:
                event = next(work)
                if stop.is_set():
                    raise Cancelled("the job was cancelled")
                if time.monotonic() > deadline:
                    raise TimedOut(f"the job ran longer than {self._job_seconds:g} seconds")
                listen(event)
        except StopIteration as end:
            return dict(end.value)
        finally:
            work.close()

    def _translated(self, error: Exception) -> DarkroomError:
        if is_out_of_memory(error):
            # The frames of the failed job hold its tensors; without them the cache has something to give back.
            traceback.clear_frames(error.__traceback__)
            return self._out_of_memory()
        if is_device_fault(error):
            return GpuFault("the GPU reported a fault; the job can be retried on another worker")
        return Internal("something went wrong inside Darkroom; the worker's log has the details under this job's id")

    def _out_of_memory(self) -> OutOfMemory:
        self._out_of_memory_in_a_row += 1
        error = OutOfMemory("this job does not fit the device's memory; ask for a smaller size or fewer images")
        if self._out_of_memory_in_a_row >= OOM_BEFORE_REFRESH:
            error.refresh_worker = True  # type: ignore[misc]
        _empty_cache()
        return error


async def _settled(work: Future[T], stop: threading.Event) -> T:
    """Wait for the thread. A cancellation takes back what still waits for its turn; what runs is told by `stop`,
    and the cancellation is raised only when the thread is free again.
    """
    waiting = asyncio.wrap_future(work)
    try:
        return await asyncio.shield(waiting)
    except asyncio.CancelledError:
        stop.set()
        work.cancel()
        while not waiting.done():
            try:
                await asyncio.shield(asyncio.wait([waiting]))
            except asyncio.CancelledError:
                continue
        if not waiting.cancelled():
            waiting.exception()  # looked at, so that asyncio does not report it as forgotten
        raise


def _use_threads(count: int | None) -> None:
    if count is not None:
        import torch

        torch.set_num_threads(count)


def _empty_cache() -> None:
    import gc

    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
