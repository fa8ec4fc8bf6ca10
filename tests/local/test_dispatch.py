"""Jobs meet workers: promptly, once, and never a worker that must leave."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from pathlib import Path

import pytest

from darkroom.local import dispatch as dispatch_module
from darkroom.local import roster as roster_module
from darkroom.local.dispatch import Dispatch
from darkroom.local.job import NewJob, Outcome
from darkroom.local.queue import JobQueue
from darkroom.local.roster import Roster

DONE = Outcome("COMPLETED", output="1")


def new(id: str, **changes: object) -> NewJob:
    fields = {"input": "{}", "execution_timeout": 60.0, "ttl": 600.0, "keep": 60.0, **changes}
    return NewJob(id=id, **fields)  # type: ignore[arg-type]


@pytest.fixture
def dispatch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(roster_module, "STOP_AFTER_TAKE_SECONDS", 0.1)
    monkeypatch.setattr(dispatch_module, "LEAVING_POLL_SECONDS", 0.01)
    queue = JobQueue(tmp_path / "queue.sqlite", max_attempts=2)
    yield Dispatch(queue, Roster())
    queue.close()


async def test_an_open_poll_is_answered_when_a_job_arrives(dispatch: Dispatch) -> None:
    seat = dispatch.roster.join("w")
    poll = asyncio.create_task(dispatch.take(seat, 1, busy=False, seconds=5))
    await asyncio.sleep(0.01)
    started = time.perf_counter()
    dispatch.submit(new("a"))
    [work] = await poll
    assert (work.job.id, work.job.worker) == ("a", "w")
    assert time.perf_counter() - started < 1


async def test_a_poll_without_a_job_returns_empty_handed(dispatch: Dispatch) -> None:
    seat = dispatch.roster.join("w")
    assert await dispatch.take(seat, 1, busy=False, seconds=0.01) == []
    dispatch.submit(new("a"))
    assert dispatch.queue.get("a").status == "IN_QUEUE", "an expired poll gets no job"


async def test_a_leaving_worker_gets_nothing_and_its_polls_return_at_once(dispatch: Dispatch) -> None:
    seat = dispatch.roster.join("w")
    polls = asyncio.gather(dispatch.take(seat, 1, busy=False, seconds=5), dispatch.stops(seat, 5))
    await asyncio.sleep(0.01)
    started = time.perf_counter()
    dispatch.dismiss(seat)
    assert await polls == [[], []]
    assert time.perf_counter() - started < 1
    dispatch.submit(new("a"))
    assert await dispatch.take(seat, 1, busy=False, seconds=5) == []


async def test_a_batch_takes_several(dispatch: Dispatch) -> None:
    for number in range(5):
        dispatch.submit(new(f"job{number}"))
    works = await dispatch.take(dispatch.roster.join("w"), 3, busy=False, seconds=1)
    assert [work.job.id for work in works] == ["job0", "job1", "job2"]


async def test_a_waiting_client_hears_of_the_end(dispatch: Dispatch) -> None:
    seat = dispatch.roster.join("w")
    dispatch.submit(new("a"))
    await dispatch.take(seat, 1, busy=False, seconds=1)
    waiting = asyncio.create_task(dispatch.ended("a", 5))
    await asyncio.sleep(0.01)
    dispatch.finish(seat, "a", DONE)
    assert (await waiting).status == "COMPLETED"
    assert (await dispatch.ended("a", 5)).status == "COMPLETED"
    assert await dispatch.ended("unknown", 5) is None


async def test_a_waiting_client_is_answered_when_its_time_is_over(dispatch: Dispatch) -> None:
    dispatch.submit(new("a"))
    assert (await dispatch.ended("a", 0.01)).status == "IN_QUEUE"


async def test_a_stop_is_told_once_and_not_before_the_worker_can_have_begun(dispatch: Dispatch) -> None:
    seat = dispatch.roster.join("w")
    dispatch.submit(new("a"))
    await dispatch.take(seat, 1, busy=False, seconds=1)
    stops = asyncio.create_task(dispatch.stops(seat, 5))
    taken = time.perf_counter()
    await asyncio.sleep(0)
    assert dispatch.cancel("a")
    assert await stops == ["a"]
    assert time.perf_counter() - taken >= 0.09
    assert await dispatch.stops(seat, 0.01) == []
    assert not dispatch.cancel("a")


async def test_a_result_that_never_came_fails_its_job(dispatch: Dispatch) -> None:
    seat = dispatch.roster.join("w")
    dispatch.submit(new("a"))
    await dispatch.take(seat, 1, busy=False, seconds=1)
    await dispatch.take(seat, 1, busy=True, seconds=0.01)
    assert dispatch.queue.get("a").status == "IN_PROGRESS"
    await dispatch.take(seat, 1, busy=False, seconds=0.01)
    failed = dispatch.queue.get("a")
    assert (failed.status, "result never arrived" in failed.error) == ("FAILED", True)


async def test_a_job_whose_end_cannot_be_written_keeps_its_holder(
    dispatch: Dispatch, monkeypatch: pytest.MonkeyPatch
) -> None:
    seat = dispatch.roster.join("w")
    dispatch.submit(new("a"))
    await dispatch.take(seat, 1, busy=False, seconds=1)
    with monkeypatch.context() as full_disk:
        full_disk.setattr(dispatch.queue, "finish", _disk_is_full)
        with pytest.raises(sqlite3.OperationalError):
            dispatch.finish(seat, "a", DONE)
        assert set(seat.held) == {"a"}
        with pytest.raises(sqlite3.OperationalError):
            await dispatch.take(seat, 1, busy=False, seconds=0.01)
        assert set(seat.held) == {"a"}
    await dispatch.take(seat, 1, busy=False, seconds=0.01)
    assert dispatch.queue.get("a").status == "FAILED"


def _disk_is_full(*_: object) -> None:
    raise sqlite3.OperationalError("database or disk is full")


async def test_the_end_of_a_cancelled_job_frees_its_worker(dispatch: Dispatch) -> None:
    seat = dispatch.roster.join("w")
    dispatch.submit(new("a"))
    await dispatch.take(seat, 1, busy=False, seconds=1)
    dispatch.cancel("a")
    assert set(seat.held) == {"a"}
    await dispatch.take(seat, 1, busy=False, seconds=0.01)
    assert not seat.held
    assert dispatch.queue.get("a").status == "CANCELLED"


async def test_a_dead_workers_job_goes_to_a_worker_that_waits(dispatch: Dispatch) -> None:
    first, second = dispatch.roster.join("first"), dispatch.roster.join("second")
    dispatch.submit(new("a"))
    await dispatch.take(first, 1, busy=False, seconds=1)
    poll = asyncio.create_task(dispatch.take(second, 1, busy=False, seconds=5))
    await asyncio.sleep(0.01)
    dispatch.bury("first")
    [work] = await poll
    assert work.job.worker == "second"
    assert not dispatch.finish(first, "a", DONE)
    assert dispatch.finish(second, "a", DONE)


async def test_the_worker_that_asked_last_goes_first(dispatch: Dispatch) -> None:
    seats = [dispatch.roster.join(name) for name in ("old", "new")]
    polls = []
    for seat in seats:
        polls.append(asyncio.create_task(dispatch.take(seat, 1, busy=False, seconds=60)))
        while seat.poll is None:
            await asyncio.sleep(0)
    dispatch.submit(new("a"))
    [work] = await polls[1]
    assert work.job.worker == "new"
    dispatch.close()
    assert await polls[0] == []


async def test_closing_answers_everyone(dispatch: Dispatch) -> None:
    seat = dispatch.roster.join("w")
    dispatch.submit(new("low", low_priority=True))
    taken = await dispatch.take(seat, 1, busy=False, seconds=1)
    waits = asyncio.gather(dispatch.take(seat, 1, busy=True, seconds=9), dispatch.stops(seat, 9),
                           dispatch.ended("low", 9))
    await asyncio.sleep(0.01)
    dispatch.close()
    polled, stops, job = await asyncio.wait_for(waits, 1)
    assert (len(taken), polled, stops, job.status) == (1, [], [], "IN_PROGRESS")


async def test_a_worker_that_hung_up_gets_no_job(dispatch: Dispatch) -> None:
    seat = dispatch.roster.join("w")
    gone = asyncio.get_running_loop().create_future()
    poll = asyncio.create_task(dispatch.take(seat, 1, busy=False, seconds=5, gone=gone))
    await asyncio.sleep(0.01)
    gone.set_result(None)
    assert await poll == []
    dispatch.submit(new("a"))
    assert dispatch.queue.get("a").status == "IN_QUEUE"


async def test_a_job_handed_to_a_worker_in_the_moment_it_hangs_up_is_taken_back(dispatch: Dispatch) -> None:
    seat = dispatch.roster.join("w")
    gone = asyncio.get_running_loop().create_future()
    poll = asyncio.create_task(dispatch.take(seat, 1, busy=False, seconds=5, gone=gone))
    await asyncio.sleep(0.01)
    dispatch.submit(new("a"))
    gone.set_result(None)
    assert await poll == []
    assert dispatch.queue.get("a").status == "IN_QUEUE"
    assert not seat.held


async def test_only_the_newest_poll_of_a_worker_counts(dispatch: Dispatch) -> None:
    seat = dispatch.roster.join("w")
    old = asyncio.create_task(dispatch.take(seat, 1, busy=False, seconds=5))
    await asyncio.sleep(0.01)
    fresh = asyncio.create_task(dispatch.take(seat, 1, busy=False, seconds=5))
    assert await old == []
    dispatch.submit(new("a"))
    assert [work.job.id for work in await fresh] == ["a"]


async def test_a_worker_is_idle_once_it_asks_and_has_nothing(dispatch: Dispatch) -> None:
    seat = dispatch.roster.join("w")
    dispatch.submit(new("a"))
    await dispatch.take(seat, 1, busy=False, seconds=1)
    dispatch.finish(seat, "a", DONE)
    assert seat.idle_since is None, "it has not asked again yet"
    await dispatch.take(seat, 1, busy=False, seconds=0.01)
    assert seat.idle_since is not None


async def test_a_job_that_a_stopping_endpoint_cuts_short_is_not_blamed(dispatch: Dispatch) -> None:
    seat = dispatch.roster.join("w")
    for _ in range(3):
        if dispatch.queue.get("a") is None:
            dispatch.submit(new("a"))
        assert dispatch.queue.take("w")
        dispatch.close()
        dispatch.bury("w")
        assert dispatch.queue.get("a").status == "IN_PROGRESS"
        assert dispatch.queue.recover() == 1
    assert dispatch.queue.get("a").losses == 0
    assert not seat.held
