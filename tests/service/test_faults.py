"""Bad input and broken surroundings: a code, a sentence with the field, nothing stored, and the worker goes on."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import logging
import pickle
import struct
import threading
import time
import zlib
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from darkroom.artifacts import Artifact
from darkroom.edge import WithoutSignatures
from darkroom.errors import ModelNotReady, UnsupportedType
from darkroom.models.shelf import Shelf
from darkroom.service import Service
from darkroom.spool import Kept, Spool
from darkroom.workers import Progress, Recipe
from tests.fakes import s3
from tests.service.conftest import PHOTO, MakeService, bucket_settings, data_uri, edit_job, stored


def png_bomb() -> bytes:
    """A PNG of a few kB that unpacks to 10,000 × 10,000 pixels: 300 MB."""
    side = 10_000

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    rows = zlib.compress(zlib.compress(b"\0" * (side * 3 + 1)), 9)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def truncated_png() -> bytes:
    buffer = io.BytesIO()
    with Image.open(PHOTO) as photo:
        photo.save(buffer, "PNG")
    return buffer.getvalue()[:5_000]


SVG = b"<svg xmlns='http://www.w3.org/2000/svg'/>"
BAD_SOURCES: list[tuple[str, str, str]] = [
    ("data:image/png;base64,!!!not base64!!!", "DECODE_FAILED", "base64"),
    (data_uri(truncated_png(), "image/png"), "DECODE_FAILED", ""),
    (data_uri(png_bomb(), "image/png"), "INPUT_TOO_LARGE", "pixels"),
    (data_uri(SVG, "image/svg+xml"), "DECODE_FAILED", "SVG"),
    (data_uri(b"just some text", "image/png"), "DECODE_FAILED", "text"),
    ("file:///etc/passwd", "UNSAFE_URL", "https://"),
    ("/etc/passwd", "UNSAFE_URL", "https://"),
    ("http://169.254.169.254/latest/meta-data", "UNSAFE_URL", ""),
    ("https://169.254.169.254/latest/meta-data", "UNSAFE_URL", ""),
    ("https://localhost/a.png", "UNSAFE_URL", ""),
    ("s3://someone-elses/a.png", "UNSAFE_URL", "s3"),
]


@pytest.mark.parametrize(("source", "code", "words"), BAD_SOURCES)
async def test_a_bad_source_is_named_and_leaves_nothing_behind(
    make_service: MakeService, tmp_path: Path, source: str, code: str, words: str
) -> None:
    service = make_service()
    good = edit_job()["input"]["images"][0]
    reply = await service.handle(edit_job(images=[good, source]))
    assert (reply["code"], reply["details"]["field"], reply["retryable"]) == (code, "images[1]", False)
    assert reply["error"].startswith(f"{code}: images[1]")
    assert words in reply["error"]
    assert stored(tmp_path) == []
    assert (await service.handle(edit_job("next")))["images"]


async def test_a_url_that_never_answers_ends_in_time_and_may_be_retried(
    make_service: MakeService, silent_port: int, tmp_path: Path
) -> None:
    service = make_service(allow_private_urls=True, fetch_seconds=0.5)
    started = time.monotonic()
    reply = await service.handle(edit_job(images=[f"http://127.0.0.1:{silent_port}/x.png"]))
    assert (reply["code"], reply["details"]["field"], reply["retryable"]) == ("FETCH_FAILED", "images[0]", True)
    assert time.monotonic() - started < 10
    assert stored(tmp_path) == []


@pytest.mark.parametrize("disguise", ["data.safetensors", "data.bin"])
async def test_a_lora_that_is_a_pickle_is_refused(make_service: MakeService, tmp_path: Path, disguise: str) -> None:
    (tmp_path / disguise).write_bytes(pickle.dumps({"w": 1}))
    reply = await make_service(lora_dir=tmp_path).handle(edit_job(loras=[{"path": disguise}]))
    assert (reply["code"], reply["details"]["field"]) == ("INVALID_INPUT", "loras[0].path")
    assert "pickle" in reply["error"]
    assert stored(tmp_path) == []


async def test_a_lora_path_cannot_leave_its_folder(make_service: MakeService, tmp_path: Path) -> None:
    (tmp_path / "loras").mkdir()
    (tmp_path / "secret.safetensors").write_bytes(b"x")
    reply = await make_service(lora_dir=tmp_path / "loras").handle(edit_job(loras=[{"path": "../secret.safetensors"}]))
    assert (reply["code"], reply["details"]["field"]) == ("INVALID_INPUT", "loras[0].path")


async def test_a_request_that_is_no_request_is_answered(make_service: MakeService) -> None:
    service = make_service()
    for raw in ({}, {"id": "x"}, {"id": "x", "input": None}, {"id": "x", "input": "y"}, {"input": {}}):
        assert (await service.handle(raw))["code"] == "INVALID_INPUT"


# -- the store ----------------------------------------------------------------------------------


async def test_a_store_that_is_down_costs_no_result(make_service: MakeService, tmp_path: Path) -> None:
    """UPLOAD_FAILED; the result is kept and goes out, without being made again, when the job is retried."""
    root = tmp_path / "s3"
    server = s3.start(root)
    service = make_service(**bucket_settings(server, "p"))
    good = await service.handle(edit_job("before"))
    server.stop()
    failed = await service.handle(edit_job("job-9"))
    assert (failed["code"], failed["retryable"]) == ("UPLOAD_FAILED", True)
    assert "kept" in failed["error"]
    for secret in (server.secret, server.access_key, str(server.port)):
        assert secret not in json.dumps(failed)
    again = s3.start(root, server.port)
    try:
        steps = count_forwards(service)
        retried = await service.handle(edit_job("job-9"))
        assert steps() == 0
        assert retried["images"][0]["sha256"] == good["images"][0]["sha256"]
        assert any("earlier try" in warning for warning in retried["warnings"])
        assert not list((tmp_path / "spool").iterdir())
    finally:
        again.stop()


async def test_a_kept_result_is_not_given_to_another_request(make_service: MakeService, tmp_path: Path) -> None:
    service = make_service(store=str(tmp_path / "wall" / "store"))
    (tmp_path / "wall").write_text("a file where the folder should be")
    assert (await service.handle(edit_job("a")))["code"] == "UPLOAD_FAILED"
    (tmp_path / "wall").unlink()
    steps = count_forwards(service)
    await service.handle(edit_job("a", seed=77))
    assert steps() == 1


def count_forwards(service: Service) -> Callable[[], int]:
    calls: list[int] = []
    # The first layer, which every form of the forward runs; the lean one does not call the module itself.
    first = service.shelf.editor("edit").transformer.img_in
    hook = first.register_forward_hook(lambda *_: calls.append(1))

    def total() -> int:
        hook.remove()
        return len(calls)

    return total


# -- idempotency --------------------------------------------------------------------------------


async def test_the_same_key_and_request_is_answered_without_work(make_service: MakeService) -> None:
    service = make_service()
    first = await service.handle(edit_job("a", idempotency_key="k1"))
    steps = count_forwards(service)
    second = await service.handle(edit_job("b", idempotency_key="k1"))
    assert steps() == 0
    assert second["images"] == first["images"]
    assert second["cost"] == first["cost"]


async def test_the_same_key_with_another_request_is_refused(make_service: MakeService, tmp_path: Path) -> None:
    service = make_service()
    await service.handle(edit_job("a", idempotency_key="k1"))
    before = stored(tmp_path)
    reply = await service.handle(edit_job("b", idempotency_key="k1", seed=6))
    assert (reply["code"], reply["details"]["field"]) == ("INVALID_INPUT", "idempotency_key")
    assert stored(tmp_path) == before


async def test_two_jobs_of_one_key_at_once_are_made_once(make_service: MakeService) -> None:
    service = make_service()
    steps = count_forwards(service)
    replies = await asyncio.gather(*(service.handle(edit_job(str(i), idempotency_key="k")) for i in range(3)))
    assert steps() == 1
    assert len({reply["images"][0]["key"] for reply in replies}) == 1


async def test_a_failed_job_leaves_its_key_free(make_service: MakeService) -> None:
    service = make_service()
    bad = edit_job("a", idempotency_key="k", images=["data:image/png;base64,QUJD"])
    assert "error" in await service.handle(bad)
    assert (await service.handle(edit_job("b", idempotency_key="k")))["images"]


# -- the torch thread ---------------------------------------------------------------------------


async def test_a_cancelled_job_stops_between_steps_and_the_next_is_right(
    make_service: MakeService, tmp_path: Path
) -> None:
    service = make_service()
    expected = (await service.handle(edit_job("before")))["images"][0]["sha256"]
    stepping = asyncio.Event()

    async def send(payload: dict[str, Any]) -> None:
        if payload["stage"] == "denoise":
            stepping.set()

    long_job = asyncio.create_task(service.handle(edit_job("long", num_inference_steps=200), send))
    await asyncio.wait_for(stepping.wait(), 60)
    long_job.cancel()
    with pytest.raises(asyncio.CancelledError):
        await long_job
    assert service.active == 0
    assert not any(name.startswith("long/") for name in stored(tmp_path))
    assert (await service.handle(edit_job("after")))["images"][0]["sha256"] == expected


async def test_health_answers_beside_a_running_job(make_service: MakeService) -> None:
    service = make_service()
    running = asyncio.create_task(service.handle(edit_job("long", num_inference_steps=30)))
    await asyncio.sleep(0.05)
    health = await service.handle({"id": "h", "input": {"type": "health"}})
    assert health["models"]["edit"]["state"] == "warm"
    assert not running.done()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running


async def test_a_job_over_its_time_ends_between_steps(make_service: MakeService) -> None:
    reply = await make_service(job_seconds=0.2).handle(edit_job(num_inference_steps=200))
    assert (reply["code"], reply["retryable"]) == ("TIMEOUT", True)


def failing(error: BaseException) -> Recipe:
    def run(job: Any, desk: Any) -> Generator[Progress | Artifact, None, dict[str, Any]]:
        yield Progress("denoise", 0, 1)
        raise error

    return Recipe(run)


@pytest.mark.parametrize(
    ("error", "code", "retryable", "refresh"),
    [
        (torch.OutOfMemoryError("CUDA out of memory"), "OUT_OF_MEMORY", False, False),
        (MemoryError(), "OUT_OF_MEMORY", False, False),
        (RuntimeError("CUDA error: an illegal memory access was encountered"), "GPU_FAULT", True, True),
        (RuntimeError("CUDA error: device-side assert triggered"), "GPU_FAULT", True, True),
        (KeyError("/home/secret/path"), "INTERNAL", True, False),
    ],
)
async def test_faults_of_a_recipe_become_codes(
    make_service: MakeService,
    monkeypatch: pytest.MonkeyPatch,
    error: Exception,
    code: str,
    retryable: bool,
    refresh: bool,
) -> None:
    service = make_service()
    with monkeypatch.context() as patch:
        patch.setattr("darkroom.service.recipe", lambda job_type: failing(error))
        reply = await service.handle(edit_job())
    assert (reply["code"], reply["retryable"], reply.get("refresh_worker", False)) == (code, retryable, refresh)
    assert "secret" not in json.dumps(reply)
    assert (await service.handle(edit_job("next")))["images"]


async def test_memory_lost_twice_in_a_row_restarts_the_worker(
    make_service: MakeService, monkeypatch: pytest.MonkeyPatch
) -> None:
    service = make_service()
    monkeypatch.setattr("darkroom.service.recipe", lambda job_type: failing(torch.OutOfMemoryError("x")))
    first, second = await service.handle(edit_job("a")), await service.handle(edit_job("b"))
    assert "refresh_worker" not in first
    assert second["refresh_worker"] is True


async def test_torch_runs_on_one_thread_and_not_on_the_loops(make_service: MakeService) -> None:
    service, threads = make_service(), set[str]()
    first = service.shelf.editor("edit").transformer.img_in
    hook = first.register_forward_hook(lambda *_: threads.add(threading.current_thread().name))
    try:
        await asyncio.gather(*(service.handle(edit_job(str(i))) for i in range(3)))
    finally:
        hook.remove()
    assert len(threads) == 1
    assert threads.pop().startswith("torch")


def test_the_bomb_is_small() -> None:
    assert len(png_bomb()) < 13_000
    assert len(base64.b64encode(png_bomb())) < 20_000


# -- what a review found --------------------------------------------------------------------------


@pytest.mark.parametrize("times", [1, 2])
async def test_a_bucket_whose_endpoint_hides_a_private_host_behind_its_own_name_is_refused(
    make_service: MakeService, times: int
) -> None:
    """boto3 dials the endpoint without the bucket's name in front, so that is the host to judge."""
    address = f"http://{'bkt.' * times}localhost"
    own = {"accessId": "a", "accessSecret": "b", "bucketName": "bkt", "endpointUrl": address}
    reply = await make_service().handle({**edit_job(), "s3Config": own})
    assert (reply["code"], reply["details"]["field"]) == ("UNSAFE_URL", "s3Config.endpointUrl")


async def test_pictures_of_earlier_clients_stay_out_of_the_manifest(make_service: MakeService, tmp_path: Path) -> None:
    job = edit_job()
    body = job["input"].pop("images")[0].split(",")[1]
    job["input"] |= {"image_base64": body, "operation": "edit"}
    assert (await make_service().handle(job))["images"]
    assert body[:200] not in (tmp_path / "store" / "job-1" / "manifest.json").read_text()


async def test_a_negative_prompt_that_is_too_long_is_the_one_that_is_named(make_service: MakeService) -> None:
    reply = await make_service().handle(edit_job(negative_prompt="zq " * 1500, true_cfg_scale=4.0))
    assert (reply["code"], reply["details"]["field"]) == ("INPUT_TOO_LARGE", "negative_prompt")


async def test_the_negative_prompt_is_read_once_for_all_prompts(make_service: MakeService) -> None:
    service, readings = make_service(), list[int]()
    language_model = service.shelf.editor("edit").text_encoder.model.language_model
    hook = language_model.register_forward_hook(lambda *_: readings.append(1))
    prompts = ["once red", "once blue", "once red", "once inverted"]  # new to the cache that all services here share
    try:
        await service.handle(edit_job(prompt=prompts, negative_prompt="once pale", true_cfg_scale=4.0))
    finally:
        hook.remove()
    assert len(readings) == 4  # three different prompts and the negative one


async def test_a_result_that_can_be_neither_stored_nor_kept_says_so(make_service: MakeService, tmp_path: Path) -> None:
    (tmp_path / "wall").write_text("a file where folders should be")
    service = make_service(store=str(tmp_path / "wall" / "store"), spool=tmp_path / "wall" / "spool")
    reply = await service.handle(edit_job())
    assert reply["code"] == "UPLOAD_FAILED"
    assert "nor could it be kept" in reply["error"]


async def test_a_kept_result_keeps_its_cost_seconds_and_warnings(make_service: MakeService, tmp_path: Path) -> None:
    service = make_service(store=str(tmp_path / "wall" / "store"), gpu_usd_per_second=0.001)
    (tmp_path / "wall").write_text("")
    job = edit_job("a", negative_prompt="blurry")
    assert (await service.handle(job))["code"] == "UPLOAD_FAILED"
    (tmp_path / "wall").unlink()
    reply = await service.handle(job)
    assert reply["cost"]["gpu_seconds"] > 0
    assert reply["cost"]["usd"] > 0
    assert reply["timings"]["denoise_ms"] > 0
    assert any("negative_prompt has no effect" in warning for warning in reply["warnings"])


async def test_a_damaged_kept_result_is_made_again(make_service: MakeService, tmp_path: Path) -> None:
    service = make_service(store=str(tmp_path / "wall" / "store"))
    (tmp_path / "wall").write_text("")
    await service.handle(edit_job("a"))
    (tmp_path / "wall").unlink()
    next((tmp_path / "spool").rglob("index.json")).write_text("{")
    assert (await service.handle(edit_job("a")))["images"]


def test_a_full_spool_lets_the_oldest_go(tmp_path: Path) -> None:
    spool = Spool(tmp_path, most_bytes=2_500)
    for name in ("a", "b", "c"):
        spool.keep(name, "request", Kept([Artifact("x.png", "image/png", b"x" * 1_000)], {}, {}))
        time.sleep(0.01)
    assert [name for name in "abc" if spool.find(name, "request")] == ["b", "c"]


def test_results_kept_and_dropped_at_once_do_not_disturb_each_other(tmp_path: Path) -> None:
    """Uploads that fail side by side, as those of two jobs in flight, or of two workers that share the folder."""
    files = [Artifact(f"{i}.png", "image/png", b"x" * 10) for i in range(8)]

    def work(lane: int) -> None:
        spool = Spool(tmp_path, 10**6)
        for turn in range(60):
            ticket = f"{lane}-{turn}"
            spool.keep(ticket, "hash", Kept(files, {"lane": lane}))
            kept = spool.find(ticket, "hash")
            assert kept is not None
            assert kept.fields == {"lane": lane}
            spool.drop(ticket)

    with ThreadPoolExecutor(4) as lanes:
        list(lanes.map(work, range(4)))


async def test_a_progress_post_that_breaks_in_any_way_loses_no_result(make_service: MakeService) -> None:
    async def send(payload: dict[str, Any]) -> None:
        raise ValueError("not JSON")

    assert (await make_service(progress_seconds=0.001).handle(edit_job(num_inference_steps=3), send))["images"]


async def test_slow_progress_posts_are_not_billed_and_do_not_hold_up_a_cancel(make_service: MakeService) -> None:
    posting = asyncio.Event()

    async def send(payload: dict[str, Any]) -> None:
        posting.set()
        await asyncio.sleep(3.0)

    service = make_service(progress_seconds=0.001)
    reply = await service.handle(edit_job("a"), send)
    assert reply["cost"]["gpu_seconds"] < 2.5
    posting.clear()
    job = asyncio.create_task(service.handle(edit_job("b", num_inference_steps=200), send))
    await asyncio.wait_for(posting.wait(), 30)
    cancelled = time.monotonic()
    job.cancel()
    with pytest.raises(asyncio.CancelledError):
        await job
    assert time.monotonic() - cancelled < 2.0


async def test_the_log_has_the_cause_of_what_the_worker_answers_for(
    make_service: MakeService, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def run(job: Any, desk: Any) -> Generator[Progress | Artifact, None, dict[str, Any]]:
        yield Progress("load", 0, 1)
        raise ModelNotReady("no weights") from OSError("the real reason")

    monkeypatch.setattr("darkroom.service.recipe", lambda job_type: Recipe(run))
    await make_service().handle(edit_job())
    assert "the real reason" in caplog.text


async def test_locks_of_keys_do_not_pile_up(make_service: MakeService) -> None:
    service = make_service()
    for name in ("a", "b"):
        await service.handle(edit_job(name, idempotency_key=name))
    assert len(service._keys) == 0


def test_lines_of_the_log_hold_no_signatures() -> None:
    record = logging.LogRecord(
        "x", logging.WARNING, "", 0, "url: /a.png?X-Amz-Signature=SECRET (Caused by …) https://h/b?token=T.x", (), None
    )
    line = WithoutSignatures("%(message)s").format(record)
    assert "SECRET" not in line
    assert "T.x" not in line
    assert "/a.png?[redacted]" in line


async def test_warmup_takes_the_roles_that_the_worker_preloads(make_service: MakeService) -> None:
    reply = await make_service(preload=("edit",)).handle({"id": "w", "input": {"type": "warmup"}})
    assert reply["models"]["edit"]["state"] == "warm"


async def test_a_preloaded_role_without_a_model_is_refused_at_start(make_service: MakeService) -> None:
    service = make_service(preload=("video",))
    service.shelf = Shelf(replace(service.profile, models={"edit": service.profile.models["edit"]}))
    with pytest.raises(UnsupportedType, match="video"):
        await service.preload()
