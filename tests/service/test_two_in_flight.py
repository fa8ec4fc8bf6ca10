"""Two jobs in flight on one torch thread: what runs beside it, and what each job may not do to the other."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from darkroom.artifacts import Artifact
from darkroom.edge import Edge
from darkroom.service import IO_THREADS
from darkroom.storage import FolderStore
from darkroom.workers import Progress, Recipe, Unencoded, Work
from tests.service.conftest import MakeService, edit_job, stored


class SlowStore(FolderStore):
    """A folder that takes its time for every picture."""

    def __init__(self, folder: Path, seconds: float) -> None:
        super().__init__(folder)
        self._seconds = seconds

    def put(self, key: str, data: bytes, media_type: str) -> None:
        if key.endswith(".png"):
            time.sleep(self._seconds)
        super().put(key, data, media_type)


def working(seconds: float, then: BaseException | None = None) -> Recipe:
    """Holds the torch thread for so long, a hundredth of a second between two yields, and makes a file."""

    def run(job: Any, desk: Any) -> Work:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            yield Progress("denoise", 0, 1)
            time.sleep(0.01)
        if then is not None:
            raise then
        yield Artifact("image_0000.png", "image/png", b"picture", {"seed": 0})
        return {}

    return Recipe(run)


@pytest.fixture
def recipes(monkeypatch: pytest.MonkeyPatch) -> dict[str, Recipe]:
    """Recipes to run instead of the real ones, by the prompt of the job."""
    table: dict[str, Recipe] = {}

    def run(job: Any, desk: Any) -> Work:
        return (yield from table[job.prompt].start(job, desk))

    monkeypatch.setattr("darkroom.service.recipe", lambda job_type: Recipe(run))
    return table


async def seconds_of(jobs: list[Callable[[], Any]], lanes: int) -> float:
    """Seconds for all jobs, so many at a time, as the SDK runs them."""
    free = asyncio.Semaphore(lanes)

    async def one(job: Callable[[], Any]) -> None:
        async with free:
            assert "images" in await job()

    started = time.perf_counter()
    await asyncio.gather(*map(one, jobs))
    return time.perf_counter() - started


async def test_slow_uploads_cost_no_time_beside_as_much_computing(
    make_service: MakeService, recipes: dict[str, Recipe], tmp_path: Path
) -> None:
    """Six jobs of 0.3 s computing and 0.3 s upload: one lane takes their sum, two lanes about half of it."""
    service = make_service()
    service.store, recipes["x"] = SlowStore(tmp_path / "store", seconds=0.3), working(0.3)

    def jobs(name: str) -> list[Callable[[], Any]]:
        return [lambda i=i: service.handle(edit_job(f"{name}{i}", prompt="x")) for i in range(6)]

    one, two = await seconds_of(jobs("a"), 1), await seconds_of(jobs("b"), 2)
    assert one >= 6 * 0.6
    assert two < 0.9 * one


async def test_real_edits_go_through_two_lanes_with_the_bytes_of_one(make_service: MakeService) -> None:
    service = make_service()
    alone = [(await service.handle(edit_job(f"a{seed}", seed=seed)))["images"][0]["sha256"] for seed in range(3)]
    beside = await asyncio.gather(*(service.handle(edit_job(f"b{seed}", seed=seed)) for seed in range(3)))
    assert [reply["images"][0]["sha256"] for reply in beside] == alone


async def test_decoding_and_encoding_leave_the_torch_thread_alone(
    make_service: MakeService, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads = dict[str, str]()

    def told(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any) -> Any:
            threads[name] = threading.current_thread().name
            return function(*args)

        return call

    from darkroom.workers import image_edit
    from darkroom.workers.pictures import making

    for module, name in ((image_edit, "decode_image"), (making, "encode_image"), (making, "to_uint8")):
        monkeypatch.setattr(module, name, told(name, getattr(module, name)))
    await make_service().handle(edit_job())
    assert threads["to_uint8"].startswith("torch")
    assert threads["decode_image"].startswith("io")
    assert threads["encode_image"].startswith("io")


async def test_a_file_that_does_not_encode_fails_its_job_and_no_other(
    make_service: MakeService, recipes: dict[str, Recipe]
) -> None:
    def broken() -> Artifact:
        raise ValueError("/a/path of this machine")

    def run(job: Any, desk: Any) -> Work:
        yield Unencoded(broken)
        return {}

    service = make_service()
    recipes |= {"bad": Recipe(run), "good": working(0.1)}
    bad, good = await asyncio.gather(*(service.handle(edit_job(name, prompt=name)) for name in ("bad", "good")))
    assert (bad["code"], bad["retryable"]) == ("INTERNAL", True)
    assert "path" not in bad["error"]
    assert good["images"]


async def test_a_failed_job_leaves_no_pictures_to_encode(make_service: MakeService, recipes: dict[str, Recipe]) -> None:
    """They would hold up the other job's and keep their pixels in memory."""
    encoded, release = list[int](), threading.Event()

    def encode(number: int) -> Artifact:
        release.wait(60)
        encoded.append(number)
        return Artifact(f"image_{number:04d}.png", "image/png", b"picture", {"seed": 0})

    def run(job: Any, desk: Any) -> Work:
        for number in range(4 * IO_THREADS):
            yield Unencoded(partial(encode, number))
        raise torch.OutOfMemoryError("CUDA out of memory")

    service = make_service()
    recipes |= {"bad": Recipe(run), "good": working(0.1)}
    bad = await service.handle(edit_job("bad", prompt="bad"))
    release.set()
    assert bad["code"] == "OUT_OF_MEMORY"
    assert (await service.handle(edit_job("good", prompt="good")))["images"]
    assert len(encoded) <= IO_THREADS


async def test_a_job_cancelled_while_it_waits_leaves_at_once_and_never_starts(
    make_service: MakeService, recipes: dict[str, Recipe], tmp_path: Path
) -> None:
    service = make_service()
    recipes |= {"long": working(3.0)}
    long = asyncio.create_task(service.handle(edit_job("long", prompt="long")))
    await asyncio.sleep(0.2)
    waiting = asyncio.create_task(service.handle(edit_job("waiting", prompt="not in the table")))
    await asyncio.sleep(0.2)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    # At once: the long job still holds the thread.
    assert not long.done()
    assert (await long)["images"]
    assert not any(name.startswith("waiting/") for name in stored(tmp_path))


async def test_waiting_for_the_thread_takes_none_of_a_jobs_time_or_money(
    make_service: MakeService, recipes: dict[str, Recipe]
) -> None:
    service = make_service(job_seconds=1.2)
    recipes |= {"x": working(0.8)}
    first, second = await asyncio.gather(*(service.handle(edit_job(name, prompt="x")) for name in "ab"))
    assert first["images"]
    assert second["images"]
    assert second["cost"]["gpu_seconds"] < 1.2
    assert max(reply["timings"]["queue_ms"] for reply in (first, second)) > 500


async def test_memory_that_one_job_lacks_costs_the_other_nothing(
    make_service: MakeService, recipes: dict[str, Recipe]
) -> None:
    service = make_service()
    recipes |= {"large": working(0.2, torch.OutOfMemoryError("CUDA out of memory")), "good": working(0.2)}
    large, good = await asyncio.gather(*(service.handle(edit_job(name, prompt=name)) for name in ("large", "good")))
    assert (large["code"], large.get("refresh_worker")) == ("OUT_OF_MEMORY", None)
    assert good["images"]


async def test_an_answer_that_ends_the_worker_is_its_last(
    make_service: MakeService, recipes: dict[str, Recipe], tmp_path: Path
) -> None:
    """RunPod stops the pod on such an answer, and a job that is still being stored would be lost with it."""
    service = make_service()
    service.store = SlowStore(tmp_path / "store", seconds=0.5)
    recipes |= {"good": working(0.1), "fatal": working(0.1, RuntimeError("CUDA error: an illegal memory access"))}
    edge, answered = Edge(service), list[str]()

    async def one(prompt: str) -> dict[str, Any]:
        reply = await edge.handler(edit_job(prompt, prompt=prompt))
        answered.append(prompt)
        return reply

    good, fatal = await asyncio.gather(one("good"), one("fatal"))
    assert answered == ["good", "fatal"]
    assert good["images"]
    assert fatal["refresh_worker"] is True


async def test_two_answers_that_end_the_worker_do_not_wait_for_each_other(
    make_service: MakeService, recipes: dict[str, Recipe]
) -> None:
    recipes |= {"fatal": working(0.1, RuntimeError("CUDA error: an illegal memory access"))}
    edge = Edge(make_service())
    replies = await asyncio.wait_for(
        asyncio.gather(*(edge.handler(edit_job(name, prompt="fatal")) for name in "ab")), 10
    )
    assert all(reply["refresh_worker"] for reply in replies)
