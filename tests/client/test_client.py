"""The client against an endpoint over HTTP that misbehaves."""

import asyncio
import hashlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import httpx
import pytest

from darkroom.client import (
    AsyncClient,
    BadReply,
    ChecksumMismatch,
    Client,
    ClientError,
    DownloadFailed,
    EndpointHealth,
    EndpointUnreachable,
    JobCancelled,
    JobFailed,
    JobLost,
    JobStatus,
    Picture,
    Polling,
    RateLimited,
    RequestRefused,
    Retry,
    Unauthorized,
    WaitTimeout,
)
from darkroom.client.flow import Answer, Call, Pause
from darkroom.client.protocol import Protocol
from darkroom.errors import InvalidInput
from tests.client.conftest import EAGER, IMPATIENT
from tests.client.fake_endpoint import FakeEndpoint, FakeServer, picture


def test_an_edit_comes_back_typed_and_keeps_what_it_does_not_know(client: Client, photo: Path) -> None:
    reply = client.edit([photo], "make it blue", seed=7)

    assert (reply.seed, reply.images[0].width, reply.cost.gpu, reply.cold) == (7, 24, "NVIDIA L4", True)
    assert reply.job_id == "job-1"
    assert reply.worker_id == "worker-1"
    assert reply.model_extra is not None
    assert reply.model_extra["of_tomorrow"] == {"x": 1}


def test_paths_bytes_and_addresses_all_go_as_sources(client: Client, endpoint: FakeEndpoint, photo: Path) -> None:
    client.edit([photo, picture("x"), "https://example.com/a.png"], "combine them")

    sent = endpoint.jobs["job-1"]["input"]["images"]
    assert sent[0].startswith("data:image/png;base64,")
    assert sent[1].startswith("data:image/png;base64,")
    assert sent[2] == "https://example.com/a.png"


def test_a_bad_field_is_named_before_anything_is_sent(client: Client, endpoint: FakeEndpoint, photo: Path) -> None:
    with pytest.raises(InvalidInput, match="did you mean num_inference_steps"):
        client.edit([photo], "x", num_inference_step=8)
    with pytest.raises(InvalidInput, match="true_cfg_scale"):
        client.edit([photo], "x", guidance_scale=3.0)
    with pytest.raises(FileNotFoundError, match=r"nowhere\.png"):
        client.edit(["nowhere.png"], "x")
    assert endpoint.calls["run"] == 0


def test_a_file_that_is_no_picture_is_refused_here(client: Client, tmp_path: Path) -> None:
    text = tmp_path / "notes.png"
    text.write_text("not a picture")
    with pytest.raises(ValueError, match=r"notes\.png is not a PNG"):
        client.edit([text], "x")


@pytest.mark.parametrize("fault", ["500", "502", "lost", "429:0.05"])
def test_a_call_that_went_wrong_is_repeated(client: Client, endpoint: FakeEndpoint, photo: Path, fault: str) -> None:
    endpoint.script("run", fault)
    endpoint.script("status", fault)

    assert client.edit([photo], "x").images
    assert endpoint.calls["run"] == 2


def test_a_lost_answer_to_an_accepted_job_is_not_paid_twice(
    client: Client, endpoint: FakeEndpoint, photo: Path
) -> None:
    endpoint.script("run", "lost", "lost")

    client.edit([photo], "x")

    assert len(endpoint.jobs) == 3
    assert endpoint.paid == 1
    assert len({job["key"] for job in endpoint.jobs.values()}) == 1


def test_retry_after_is_honoured(client: Client, endpoint: FakeEndpoint, photo: Path) -> None:
    endpoint.script("run", "429:0.4")
    started = time.monotonic()
    client.edit([photo], "x")
    assert time.monotonic() - started >= 0.4


def test_a_rate_limit_beyond_patience_ends_with_what_was_asked_for(endpoint: FakeEndpoint, photo: Path) -> None:
    endpoint.script("run", "429:60")
    with Client(endpoint.url, retry=IMPATIENT) as client, pytest.raises(RateLimited) as caught:
        client.edit([photo], "x")
    assert caught.value.retry_after_seconds == 60
    assert endpoint.calls["run"] == 1


@pytest.mark.parametrize("after", ["0", "Wed, 21 Oct 2015 07:28:00 GMT"])
def test_a_limit_that_names_no_time_is_met_with_growing_pauses(
    endpoint: FakeEndpoint, photo: Path, after: str
) -> None:
    endpoint.script("run", *[f"429:{after}"] * 1000)
    retry = Retry(base_seconds=0.05, most_seconds=0.4, patience_seconds=1.0)
    with Client(endpoint.url, retry=retry) as client, pytest.raises(RateLimited):
        client.edit([photo], "x")
    assert 3 <= endpoint.calls["run"] <= 9


def test_a_store_that_limits_its_callers_is_given_its_time(
    client: Client, endpoint: FakeEndpoint, photo: Path, tmp_path: Path
) -> None:
    reply = client.edit([photo], "x")
    endpoint.script("file", "429:0.4")
    client.download(reply.images[0], tmp_path / "a.png")
    first, second = endpoint.fetched
    assert second - first >= 0.4


def test_a_store_that_keeps_limiting_fails_the_download_and_not_the_endpoint(
    client: Client, endpoint: FakeEndpoint, photo: Path, tmp_path: Path
) -> None:
    reply = client.edit([photo], "x")
    endpoint.script("file", "429:60")
    with pytest.raises(DownloadFailed, match="store limits its callers") as caught:
        client.download(reply.images[0], tmp_path / "a.png")
    assert (caught.value.status, len(endpoint.fetched)) == (429, 1)


def test_an_answer_that_cannot_be_read_is_no_answer(
    client: Client, endpoint: FakeEndpoint, photo: Path, tmp_path: Path
) -> None:
    reply = client.edit([photo], "x")
    endpoint.script("file", "gzip")
    assert client.download(reply.images[0], tmp_path / "a.png").is_file()
    with pytest.raises(DownloadFailed, match="InvalidURL"):
        client.download(Picture(url="http://[::bad/a.png"), tmp_path / "b.png")


def test_one_429_holds_back_every_call_of_a_client(endpoint: FakeEndpoint) -> None:
    endpoint.script("health", "429:0.5")

    async def both() -> float:
        async with AsyncClient(endpoint.url, retry=IMPATIENT) as client:
            first = asyncio.create_task(client.health())
            while not (shut := client._protocol.gate.delay()):
                await asyncio.sleep(0.005)
            started = time.monotonic()
            await client.submit({"type": "health"})
            waited = time.monotonic() - started
            await first
            return waited - shut

    # A clock may round down; a call that did not wait would be half a second short.
    assert asyncio.run(both()) >= -0.05


def test_a_retryable_failure_is_run_again_under_the_same_key(
    client: Client, endpoint: FakeEndpoint, photo: Path
) -> None:
    reply = client.edit([photo], "flaky 2")

    assert reply.job_id == "job-3"
    assert {job["key"] for job in endpoint.jobs.values()} == {reply.idempotency_key}
    assert endpoint.paid == 1


def test_a_failure_that_is_not_retryable_is_not_repeated(
    client: Client, endpoint: FakeEndpoint, photo: Path
) -> None:
    with pytest.raises(JobFailed) as caught:
        client.edit([photo], "fail DECODE_FAILED")

    error = caught.value
    assert (error.code, error.retryable, error.details) == ("DECODE_FAILED", False, {"field": "prompt"})
    assert error.message == "as asked for"
    assert len(endpoint.jobs) == 1


def test_a_retryable_failure_that_stays_ends_after_its_attempts(
    client: Client, endpoint: FakeEndpoint, photo: Path
) -> None:
    with pytest.raises(JobFailed) as caught:
        client.edit([photo], "fail FETCH_FAILED")
    assert caught.value.code == "FETCH_FAILED"
    assert len(endpoint.jobs) == IMPATIENT.job_attempts


def test_a_handlers_exception_becomes_its_message_without_the_traceback(client: Client, photo: Path) -> None:
    with pytest.raises(JobFailed) as caught:
        client.edit([photo], "crash")
    assert (caught.value.code, caught.value.message, caught.value.retryable) == ("INTERNAL", "boom", True)


def test_a_forgotten_job_is_submitted_again(client: Client, endpoint: FakeEndpoint, photo: Path) -> None:
    assert client.edit([photo], "forgotten").job_id == "job-2"
    assert endpoint.paid == 1


def test_progress_is_told_on_the_callers_thread_each_change_once(client: Client, photo: Path) -> None:
    seen: list[JobStatus] = []
    client.edit([photo], "steps 4", progress=seen.append)

    steps = [status.output["done"] for status in seen if status.status == "IN_PROGRESS"]
    assert steps == [0, 1, 2, 3]


def test_a_short_job_after_a_long_queue_is_noticed_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr("darkroom.client.protocol.time", SimpleNamespace(monotonic=lambda: now))
    protocol = Protocol(polling=Polling(least_seconds=0.01, most_seconds=60.0, share=0.5))
    flow = protocol.wait("j", None, None)

    def answer(status: str) -> Answer:
        return Answer(200, body=json.dumps({"id": "j", "status": status}).encode())

    pauses = []
    assert isinstance(next(flow), Call)
    for status in ["IN_QUEUE", "IN_QUEUE", "IN_PROGRESS"]:
        pause = flow.send(answer(status))
        assert isinstance(pause, Pause)
        pauses.append(pause.seconds)
        now += 20.0
        assert isinstance(next(flow), Call)
    assert pauses == [0.01, 10.0, 0.01]


def test_a_job_that_no_worker_takes_is_told_with_the_reason(endpoint: FakeEndpoint) -> None:
    endpoint.stuck = True
    endpoint.health = {"workers": {"unhealthy": 3}, "problem": "models_load: the weights are missing"}
    seen: list[str | None] = []
    polling = Polling(least_seconds=0.01, most_seconds=0.02, doubt_seconds=0.1)
    with Client(endpoint.url, polling=polling) as client, pytest.raises(WaitTimeout):
        client.run({"type": "health"}, progress=lambda status: seen.append(status.problem), timeout_seconds=0.4)
    assert seen == [None, "models_load: the weights are missing"]
    assert EndpointHealth.model_validate({"workers": {"throttled": 2}}).trouble == (
        "2 workers are throttled: no card of the endpoint's kinds is free"
    )
    assert EndpointHealth.model_validate({"workers": {"unhealthy": 1, "initializing": 1}}).trouble is None


@pytest.mark.parametrize("kind", ["sync", "asynchronous"])
@pytest.mark.parametrize(("fails_after", "ends_as", "jobs"), [(55.0, WaitTimeout, 2), (59.99, JobFailed, 1)])
def test_the_time_limit_is_for_all_attempts_together(
    monkeypatch: pytest.MonkeyPatch, fails_after: float, ends_as: type[WaitTimeout | JobFailed], jobs: int, kind: str
) -> None:
    now, submitted = 0.0, list[float]()

    def sleep(seconds: float) -> None:
        nonlocal now
        now += seconds

    async def sleep_too(seconds: float) -> None:
        sleep(seconds)

    monkeypatch.setattr("darkroom.client.protocol.time", SimpleNamespace(monotonic=lambda: now))
    monkeypatch.setattr("darkroom.client.sync.time", SimpleNamespace(sleep=sleep))
    monkeypatch.setattr("darkroom.client.asynchronous.asyncio", SimpleNamespace(sleep=sleep_too))

    def answer(request: httpx.Request) -> httpx.Response:
        if request.url.path.endswith("/run"):
            submitted.append(now)
            return httpx.Response(200, json={"id": f"j{len(submitted)}", "status": "IN_QUEUE"})
        failed = now - submitted[-1] >= fails_after
        told = {"status": "FAILED", "error": "FETCH_FAILED: away"} if failed else {"status": "IN_PROGRESS"}
        return httpx.Response(200, json={"id": f"j{len(submitted)}", **told})

    polling, transport = Polling(most_seconds=0.5), httpx.MockTransport(answer)

    def drive() -> None:
        with Client("http://endpoint.test/v2/x", polling=polling, transport=transport) as client:
            client.run({"type": "health"}, timeout_seconds=60.0)

    async def drive_too() -> None:
        async with AsyncClient("http://endpoint.test/v2/x", polling=polling, transport=transport) as client:
            await client.run({"type": "health"}, timeout_seconds=60.0)

    with pytest.raises(ends_as) as caught:
        drive() if kind == "sync" else asyncio.run(drive_too())
    assert (len(submitted), now) == (jobs, pytest.approx(60.0, abs=1.0))
    assert caught.value.job_id == f"j{jobs}"


def test_waiting_longer_than_asked_leaves_the_job_alone(client: Client, endpoint: FakeEndpoint, photo: Path) -> None:
    with pytest.raises(WaitTimeout) as caught:
        client.edit([photo], "slow 30", timeout_seconds=0.1)
    assert endpoint.status(caught.value.job_id)["status"] == "IN_PROGRESS"  # type: ignore[index]


def test_a_cancelled_job_says_so(client: Client) -> None:
    handle = client.submit({"type": "image_edit", "prompt": "slow 30", "images": ["https://example.com/a.png"]})
    assert client.cancel(handle).status == "CANCELLED"
    with pytest.raises(JobCancelled):
        client.wait(handle)


def test_unknown_jobs_are_lost(client: Client) -> None:
    with pytest.raises(JobLost):
        client.status("never-was")
    with pytest.raises(JobLost):
        client.cancel("../../escape")


def test_the_envelope_stands_beside_the_input(client: Client, endpoint: FakeEndpoint) -> None:
    client.run({"type": "health"}, webhook="https://example.com/hook", policy={"ttl": 60_000})
    body = endpoint.jobs["job-1"]["body"]
    assert body["webhook"] == "https://example.com/hook"
    assert body["policy"] == {"ttl": 60_000}


def test_a_wrong_key_is_not_tried_again(server: FakeServer) -> None:
    with server.serving(FakeEndpoint(api_key="right")) as fake:
        with Client(fake.url, api_key="wrong", retry=IMPATIENT) as client, pytest.raises(Unauthorized):
            client.health()
        assert len(fake.tokens) == 1
        with Client(fake.url, api_key="right") as client:
            assert client.health().workers.alive == 0


def test_the_key_goes_to_the_endpoint_and_never_to_the_store(server: FakeServer, photo: Path, tmp_path: Path) -> None:
    with server.serving(FakeEndpoint()) as fake, Client(fake.url, api_key="secret", polling=EAGER) as client:
        reply = client.edit([photo], "x")
        sent = len(fake.tokens)
        client.download(reply.images[0], tmp_path / "a.png")
        assert set(fake.tokens[:sent]) == {"Bearer secret"}
        assert fake.tokens[sent:] == [None]


def test_nothing_listening_is_unreachable() -> None:
    with Client("http://127.0.0.1:9/v2/none", retry=IMPATIENT) as client, pytest.raises(EndpointUnreachable):
        client.health()


def test_another_endpoints_id_is_unreachable(endpoint: FakeEndpoint) -> None:
    with Client(endpoint.url + "x") as client, pytest.raises(EndpointUnreachable, match="no endpoint"):
        client.health()


def test_server_errors_without_end_are_unreachable(client: Client, endpoint: FakeEndpoint) -> None:
    endpoint.script("health", *["503"] * 10)
    with pytest.raises(EndpointUnreachable, match="scripted 503") as caught:
        client.health()
    assert caught.value.status == 503
    assert endpoint.calls["health"] == IMPATIENT.attempts


def test_a_web_page_is_no_endpoint(client: Client, endpoint: FakeEndpoint) -> None:
    endpoint.script("health", "html")
    with pytest.raises(BadReply, match="not JSON"):
        client.health()


def test_a_refused_request_says_why(client: Client, endpoint: FakeEndpoint) -> None:
    endpoint.script("run", "400")
    with pytest.raises(RequestRefused, match="scripted 400") as caught:
        client.submit({"type": "health"})
    assert caught.value.status == 400


def test_a_request_over_the_platforms_limit_is_not_sent(client: Client, endpoint: FakeEndpoint) -> None:
    with pytest.raises(RequestRefused, match=r"an endpoint takes 10 MB: images: .* make them smaller"):
        client.edit([b"\x89PNG\r\n\x1a\n" + bytes(8_000_000)], "x")
    assert endpoint.calls["run"] == 0


@pytest.mark.parametrize(
    ("field", "words"),
    [("dataset", "s3://bucket/folder/"), ("edges", "s3://bucket/folder/"), ("source_video", "s3://bucket/key"),
     ("head", "s3://bucket/key")],
)  # fmt: skip
def test_a_field_that_makes_a_request_too_large_is_named_with_its_way_out(
    client: Client, endpoint: FakeEndpoint, field: str, words: str
) -> None:
    with pytest.raises(RequestRefused, match=rf"10 MB: {field}: give a .*{words}"):
        client.submit({"type": "any", "prompt": "x" * 1000, field: "x" * 10_000_000})
    assert endpoint.calls["run"] == 0


@pytest.mark.parametrize("delivery", ["auto", "base64"])
def test_a_download_is_verified_and_whole(client: Client, photo: Path, tmp_path: Path, delivery: str) -> None:
    reply = client.edit([photo], "x", delivery=delivery)
    path = client.download(reply.images[0], tmp_path / "deep" / "a.png")
    assert hashlib.sha256(path.read_bytes()).hexdigest() == reply.images[0].sha256
    assert [p.name for p in path.parent.iterdir()] == ["a.png"]


@pytest.mark.parametrize("mask", [0o077, 0o002])
def test_the_umask_decides_who_may_read_a_result(client: Client, photo: Path, tmp_path: Path, mask: int) -> None:
    reply = client.edit([photo], "x")
    before = os.umask(mask)
    try:
        path = client.download(reply.images[0], tmp_path / "a.png")
    finally:
        os.umask(before)
    assert path.stat().st_mode & 0o777 == 0o666 & ~mask


def test_damage_on_the_way_is_fetched_again(client: Client, photo: Path, tmp_path: Path) -> None:
    reply = client.edit([photo], "damaged")
    assert client.download(reply.images[0], tmp_path / "a.png").read_bytes() == picture(reply.idempotency_key or "")


def test_wrong_bytes_leave_no_file_and_an_old_one_alone(client: Client, photo: Path, tmp_path: Path) -> None:
    reply = client.edit([photo], "wrong")
    old = tmp_path / "a.png"
    old.write_bytes(b"old")
    with pytest.raises(ChecksumMismatch):
        client.download(reply.images[0], old)
    assert old.read_bytes() == b"old"
    assert {p.name for p in tmp_path.iterdir()} == {"a.png", "photo.png"}


@pytest.mark.parametrize("url", [None, "", "file:///etc/passwd", "data:image/png,plain", "data:image/png;base64,@@"])
def test_a_picture_without_a_usable_link_fails(client: Client, tmp_path: Path, url: str | None) -> None:
    with pytest.raises(DownloadFailed):
        client.download(Picture(url=url, key="j/a.png"), tmp_path / "a.png")


async def test_the_async_client_speaks_the_same(endpoint: FakeEndpoint, photo: Path, tmp_path: Path) -> None:
    async with AsyncClient(endpoint.url, retry=IMPATIENT, polling=EAGER) as client:
        endpoint.script("run", "lost")
        replies = await asyncio.gather(*(client.edit([photo], "x") for _ in range(5)))
        assert len({reply.idempotency_key for reply in replies}) == 5
        assert endpoint.paid == 5
        path = await client.download(replies[0].images[0], tmp_path / "a.png")
        assert path.is_file()
        with pytest.raises(JobFailed):
            await client.edit([photo], "fail UNSAFE_URL")
        assert (await client.health()).jobs.completed == 0


@pytest.mark.parametrize("address", ["", "ftp://x/y", "two words", "http://", "https://host/?a=b"])
def test_an_address_that_is_none_is_refused(address: str) -> None:
    with pytest.raises(ValueError, match="neither an endpoint id nor"):
        Client(address)


def test_an_id_means_runpod() -> None:
    with Client("abc123", api_key="k") as client:
        assert client.endpoint == "https://api.runpod.ai/v2/abc123"


def test_every_error_is_a_client_error() -> None:
    for kind in (BadReply, ChecksumMismatch, JobLost, RateLimited, RequestRefused, Unauthorized, WaitTimeout):
        assert issubclass(kind, ClientError)


def test_a_retry_that_makes_no_sense_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 1"):
        Retry(attempts=0)


def test_the_client_needs_no_torch_and_starts_fast() -> None:
    code = "import sys, darkroom.client; print('torch' in sys.modules, 'httpx' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]
