"""Two workers and one idempotency key: the work is done once, and nobody waits for a worker that is gone."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import time
from collections.abc import Callable, Coroutine, Generator
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from threading import Event
from typing import Any

import pytest

from darkroom import claims, service, storage
from darkroom.artifacts import Artifact
from darkroom.claims import Claims
from darkroom.jobs import parse
from darkroom.service import Service
from darkroom.storage import FolderStore
from darkroom.workers import Progress, Recipe
from tests.fakes import conditional_s3
from tests.fakes.s3 import S3Server
from tests.service.conftest import MakeService, bucket_settings, edit_job, stored

LONG = {"num_inference_steps": 200}


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service, "LOOK_SECONDS", 0.02)


async def at_work(worker: Service, job: dict[str, Any]) -> asyncio.Task[dict[str, Any]]:
    """The job's task, once it denoises."""
    stepping = asyncio.Event()

    async def send(payload: dict[str, Any]) -> None:
        if payload["stage"] == "denoise":
            stepping.set()

    task = asyncio.create_task(worker.handle(job, send))
    await asyncio.wait_for(stepping.wait(), 60)
    return task


def forwards(worker: Service) -> list[None]:
    """Grows with every forward of the transformer that the test's workers share."""
    seen = list[None]()
    worker.shelf.editor("edit").transformer.img_in.register_forward_hook(lambda *_: seen.append(None))
    return seen


@pytest.mark.parametrize("kind", ["folder", "s3"])
async def test_two_workers_that_meet_a_key_at_once_run_it_once(
    make_service: MakeService, s3_server: S3Server, tmp_path: Path, kind: str
) -> None:
    with conditional_s3.serve(s3_server) as conditional:
        where = bucket_settings(conditional.server, tmp_path.name) if kind == "s3" else {}
        workers = [make_service(**where) for _ in range(3)]
        seen = forwards(workers[0])
        jobs = [edit_job(f"job-{number}", idempotency_key="k") for number in range(3)]
        replies = await asyncio.gather(*(w.handle(job) for w, job in zip(workers, jobs, strict=True)))
    assert len(seen) == 1
    assert len({reply["images"][0]["key"] for reply in replies}) == 1


async def test_a_job_that_fails_or_is_cancelled_leaves_its_key_to_other_workers_at_once(
    make_service: MakeService,
) -> None:
    bad = edit_job("bad", idempotency_key="k", images=["data:image/png;base64,QUJD"])
    assert "error" in await make_service().handle(bad)
    cancelled = await at_work(make_service(progress_seconds=0.001), edit_job("long", idempotency_key="k", **LONG))
    cancelled.cancel()
    with pytest.raises(asyncio.CancelledError):
        await cancelled
    assert (await asyncio.wait_for(make_service().handle(edit_job("good", idempotency_key="k")), 30))["images"]


async def test_a_job_without_files_leaves_its_key_to_other_workers(make_service: MakeService) -> None:
    warm = {"id": "w", "input": {"type": "warmup", "models": ["edit"], "idempotency_key": "k"}}
    assert "error" not in await make_service().handle(warm)
    assert "error" not in await asyncio.wait_for(make_service().handle({**warm, "id": "v"}), 30)


@dataclass
class Clock:
    """The clock that claims go by."""

    now: float = 1e9

    def time(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(claims, "time", made)
    return made


@dataclass
class Work:
    """A recipe that holds the torch thread until it may end, and whether it has begun, and was stopped."""

    begun: Event = field(default_factory=Event)
    may_end: Event = field(default_factory=Event)
    stopped: Event = field(default_factory=Event)

    def run(self, job: Any, desk: Any) -> Generator[Progress | Artifact, None, dict[str, Any]]:
        self.begun.set()
        try:
            while not self.may_end.wait(0.01):
                yield Progress("denoise", 0, 1)
        except GeneratorExit:
            self.stopped.set()
            raise
        yield Artifact("image_0000.png", "image/png", b"a picture", {"seed": 0})
        return {}


@pytest.fixture
def works(monkeypatch: pytest.MonkeyPatch) -> list[Work]:
    """What the jobs do, each the next of the list, in the order in which they begin."""
    made, begun = [Work(), Work()], count()
    monkeypatch.setattr(service, "recipe", lambda _: Recipe(lambda job, desk: made[next(begun)].run(job, desk)))
    return made


async def until(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not true():
            await asyncio.sleep(0.01)


def lease_of(worker: Service, number: int = 0) -> float:
    return float(json.loads(worker.store.get(f"idempotency/k.{number}.claim"))["until"])


async def test_a_running_job_keeps_its_key_beyond_one_lease_and_refuses_another_request(
    make_service: MakeService, clock: Clock, works: list[Work], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service, "RENEW_SECONDS", 0.02)
    worker = make_service()
    running = asyncio.create_task(worker.handle(edit_job("long", idempotency_key="k")))
    await until(works[0].begun.is_set)
    clock.now += claims.LEASE_SECONDS - 1
    await until(lambda: lease_of(worker) == clock.now + claims.LEASE_SECONDS)
    clock.now += 2
    waiting = asyncio.create_task(make_service().handle(edit_job("same", idempotency_key="k")))
    other = await make_service().handle(edit_job("other", idempotency_key="k", seed=6))
    assert (other["code"], other["details"]["field"]) == ("INVALID_INPUT", "idempotency_key")
    works[0].may_end.set()
    replies = await asyncio.gather(running, waiting)
    assert replies[0]["images"][0]["key"] == replies[1]["images"][0]["key"]
    assert not works[1].begun.is_set()


async def test_a_worker_whose_job_was_handed_out_again_stops_and_answers_with_the_others_result(
    make_service: MakeService, works: list[Work], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service, "RENEW_SECONDS", 0.02)
    job = edit_job("one", idempotency_key="k")
    given_up = asyncio.create_task(make_service().handle(job))
    await until(works[0].begun.is_set)
    going_on = asyncio.create_task(make_service().handle(job))
    await until(works[0].stopped.is_set)
    await until(works[1].begun.is_set)
    await asyncio.sleep(10 * service.LOOK_SECONDS)  # in which the first could take its job back
    works[1].may_end.set()
    replies = await asyncio.gather(given_up, going_on)
    assert replies[0]["images"] == replies[1]["images"]


async def test_a_job_handed_out_again_shortly_before_its_end_is_stored_once(
    make_service: MakeService, works: list[Work], tmp_path: Path
) -> None:
    """Before the first worker has renewed its claim and found it taken."""
    job = edit_job("one", idempotency_key="k")
    given_up = asyncio.create_task(make_service().handle(job))
    await until(works[0].begun.is_set)
    going_on = asyncio.create_task(make_service().handle(job))
    await until((tmp_path / "store" / "idempotency" / "k.1.claim").exists)
    works[0].may_end.set()
    await until(works[1].begun.is_set)
    works[1].may_end.set()
    replies = await asyncio.gather(given_up, going_on)
    assert replies[0]["timings"] == replies[1]["timings"], "two results were stored"
    assert replies[0]["images"] == replies[1]["images"]


async def test_a_keyed_result_waits_in_the_spool_while_a_network_volume_is_away(
    make_service: MakeService, works: list[Work], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker, job = make_service(), edit_job("one", idempotency_key="k")
    running = asyncio.create_task(worker.handle(job))
    await until(works[0].begun.is_set)
    with monkeypatch.context() as patch:
        patch.setattr(storage.Path, "is_file", stale)
        patch.setattr(storage.Path, "mkdir", stale_below(tmp_path / "store", storage.Path.mkdir))
        works[0].may_end.set()
        failed = await running
    assert failed["code"] == "UPLOAD_FAILED", failed
    assert "kept" in failed["error"]
    reply = await worker.handle(job)
    assert "error" not in reply, reply
    assert any("earlier try" in warning for warning in reply["warnings"])


def stale(*_: Any, **__: Any) -> bool:
    raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))


def stale_below(folder: Path, mkdir: Callable[..., None]) -> Callable[..., None]:
    def made(path: Path, *args: Any, **options: Any) -> None:
        if path.is_relative_to(folder):
            stale()
        mkdir(path, *args, **options)

    return made


async def test_a_key_whose_files_are_gone_is_made_again_there(make_service: MakeService, tmp_path: Path) -> None:
    worker = make_service()
    first = await worker.handle(edit_job("one", idempotency_key="k"))
    (tmp_path / "store" / "one" / "image_0000.png").unlink()
    again = await worker.handle(edit_job("two", idempotency_key="k"))
    assert again["images"][0]["key"] == first["images"][0]["key"]
    assert (tmp_path / "store" / "one" / "image_0000.png").exists()


async def test_a_worker_that_slept_through_its_lease_stores_nothing_over_the_others_result(
    make_service: MakeService, clock: Clock, works: list[Work], tmp_path: Path
) -> None:
    asleep = asyncio.create_task(make_service().handle(edit_job("asleep", idempotency_key="k")))
    await until(works[0].begun.is_set)
    clock.now += claims.LEASE_SECONDS + 1
    works[1].may_end.set()
    other = await make_service().handle(edit_job("other", idempotency_key="k"))
    works[0].may_end.set()
    assert (await asleep)["images"] == other["images"]
    assert {Path(name).parts[0] for name in stored(tmp_path)} == {"idempotency", "other"}


async def test_a_cancel_is_not_taken_for_an_overtaking(
    make_service: MakeService, works: list[Work], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service, "RENEW_SECONDS", 0.02)
    worker = make_service()
    running = asyncio.create_task(worker.handle(edit_job("one", idempotency_key="k")))
    await until(works[0].begun.is_set)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert works[0].stopped.is_set()
    assert lease_of(worker) == claims.GIVEN_UP


async def test_a_wait_for_another_worker_is_no_longer_than_a_job_may_run(
    make_service: MakeService, works: list[Work]
) -> None:
    worker = make_service(job_seconds=0.1)
    job = edit_job("late", idempotency_key="k")
    assert Claims().take(worker.store, "k", "another", parse(job["input"], worker.limits).request_hash())
    reply = await worker.handle(job)
    assert (reply["code"], reply["retryable"]) == ("TIMEOUT", True)
    assert not works[0].begun.is_set()


async def test_who_waits_for_the_same_key_says_so_once(make_service: MakeService, works: list[Work]) -> None:
    told: dict[str, list[Any]] = {"here": [], "elsewhere": []}

    def listener(name: str) -> Callable[[dict[str, Any]], Coroutine[Any, Any, None]]:
        async def send(payload: dict[str, Any]) -> None:
            told[name].append(payload["stage"])

        return send

    worker, job = make_service(), edit_job("first", idempotency_key="k")
    running = asyncio.create_task(worker.handle(job))
    await until(works[0].begun.is_set)
    here = asyncio.create_task(worker.handle({**job, "id": "second"}, listener("here")))
    elsewhere = asyncio.create_task(make_service().handle({**job, "id": "third"}, listener("elsewhere")))
    await until(lambda: all(told.values()))
    await asyncio.sleep(5 * service.LOOK_SECONDS)
    works[0].may_end.set()
    replies = await asyncio.gather(running, here, elsewhere)
    assert len({reply["images"][0]["key"] for reply in replies}) == 1
    assert told == {name: ["wait for the same idempotency_key"] for name in ("here", "elsewhere")}


async def test_a_wait_for_a_key_in_a_callers_own_bucket_holds_up_no_job_of_the_workers_store(
    make_service: MakeService, works: list[Work], s3_server: S3Server
) -> None:
    with conditional_s3.serve(s3_server) as conditional:
        worker, own = make_service(allow_private_urls=True), conditional.server
        job = edit_job("theirs", idempotency_key="same")
        bucket = make_service(**bucket_settings(own, "")).store
        assert Claims().take(bucket, "same", "another", parse(job["input"], worker.limits).request_hash())
        address = {"endpointUrl": own.endpoint_url, "bucketName": own.bucket}
        job["s3Config"] = {**address, "accessId": own.access_key, "accessSecret": own.secret}
        waiting = asyncio.create_task(worker.handle(job))
        await until(lambda: len(conditional.asked) > 6)
        works[0].may_end.set()
        assert (await asyncio.wait_for(worker.handle(edit_job("ours", idempotency_key="same")), 60))["images"]
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting


class SlowToClaim(FolderStore):
    """A folder whose conditional writes wait until they may."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.asked, self.may = Event(), Event()

    def put_new(self, key: str, data: bytes, media_type: str) -> bool:
        self.asked.set()
        assert self.may.wait(60)
        return super().put_new(key, data, media_type)


async def test_a_job_cancelled_while_it_claims_its_key_leaves_it_free(
    make_service: MakeService, works: list[Work], tmp_path: Path
) -> None:
    worker, slow = make_service(), SlowToClaim(tmp_path / "store")
    worker.store = slow
    claiming = asyncio.create_task(worker.handle(edit_job("one", idempotency_key="k")))
    await until(slow.asked.is_set)
    claiming.cancel()
    with pytest.raises(asyncio.CancelledError):
        await claiming
    slow.may.set()
    await until(lambda: worker.store.exists("idempotency/k.0.claim") and lease_of(worker) == claims.GIVEN_UP)
    assert not works[0].begun.is_set()


async def test_what_a_dead_worker_had_begun_is_made_by_another_after_the_lease(
    make_service: MakeService, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(claims, "LEASE_SECONDS", 0.5)
    worker, began = make_service(), time.monotonic()
    job = edit_job("next", idempotency_key="k")
    request = parse(job["input"], worker.limits).request_hash()
    assert Claims().take(worker.store, "k", "of-the-dead", request)
    assert (await asyncio.wait_for(worker.handle(job), 30))["images"]
    assert time.monotonic() - began > 0.5


async def test_a_store_without_conditions_is_used_as_before(
    make_service: MakeService, s3_server: S3Server, tmp_path: Path
) -> None:
    where = bucket_settings(s3_server, tmp_path.name)
    first = await make_service(**where).handle(edit_job("a", idempotency_key="k"))
    second = await make_service(**where).handle(edit_job("b", idempotency_key="k"))
    assert second["images"][0]["key"] == first["images"][0]["key"]
