"""Two workers and one idempotency key: the work is done once, and nobody waits for a worker that is gone."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import pytest

from darkroom import claims, service
from darkroom.claims import Claims
from darkroom.jobs import parse
from darkroom.service import Service
from tests.fakes import conditional_s3
from tests.fakes.s3 import S3Server
from tests.service.conftest import MakeService, bucket_settings, edit_job

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


async def test_a_running_job_keeps_its_key_beyond_one_lease_and_refuses_another_request(
    make_service: MakeService, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(claims, "LEASE_SECONDS", 1.0)
    monkeypatch.setattr(service, "RENEW_SECONDS", 0.1)
    worker = make_service(progress_seconds=0.001)
    running = await at_work(worker, edit_job("long", idempotency_key="k", **LONG))
    await asyncio.sleep(1.2)
    assert not running.done()
    waiting = asyncio.create_task(make_service().handle(edit_job("same", idempotency_key="k", **LONG)))
    other = await make_service().handle(edit_job("other", idempotency_key="k", seed=6, **LONG))
    assert (other["code"], other["details"]["field"]) == ("INVALID_INPUT", "idempotency_key")
    assert not waiting.done()
    for task in (waiting, running):
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task


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
