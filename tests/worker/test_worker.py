"""The real worker: handler.py under the unmodified SDK loop, in a process of its own, behind a control plane."""

from __future__ import annotations

import hashlib
import io
import json
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from PIL import Image

from darkroom.local import EndpointConfig, EndpointProcess, start
from tests.fakes.s3 import S3Server
from tests.service.conftest import edit_job

ROOT = Path(__file__).parents[2]
ENDED = ("COMPLETED", "FAILED", "CANCELLED", "TIMED_OUT")


class Endpoint:
    """A client that is no more than HTTP."""

    def __init__(self, process: EndpointProcess, data: Path) -> None:
        self.process, self.data = process, data
        self.http = httpx.Client(base_url=f"{process.address}/v2/local", timeout=120, trust_env=False)

    def run(self, **fields: Any) -> str:
        return str(self.http.post("/run", json={"input": edit_job(**fields)["input"]}).json()["id"])

    def raw(self, given: dict[str, Any]) -> dict[str, Any]:
        return self.end(self.http.post("/run", json=given).json()["id"])

    def status(self, job: str) -> dict[str, Any]:
        return dict(self.http.get(f"/status/{job}").json())

    def end(self, job: str, seconds: float = 120) -> dict[str, Any]:
        return self.until(job, lambda state: state["status"] in ENDED, seconds)

    def until(self, job: str, fine: Callable[[dict[str, Any]], bool], seconds: float = 120) -> dict[str, Any]:
        give_up = time.monotonic() + seconds
        while not fine(state := self.status(job)):
            assert time.monotonic() < give_up, f"{state}\n{self.log()}"
            time.sleep(0.02)
        return state

    def stop(self) -> None:
        self.http.close()
        self.process.stop()

    def log(self) -> str:
        """What the workers said."""
        return "\n".join(path.read_text(errors="replace") for path in sorted(self.data.rglob("*.log")))


def serve(folder: Path, family: Path, **env: str) -> Endpoint:
    config = EndpointConfig(
        command=(sys.executable, str(ROOT / "handler.py")),
        env={"DARKROOM_PROFILE": "pocket", "DARKROOM_EDIT_MODEL": str(family), "DARKROOM_PROGRESS_SECONDS": "0.02",
             "DARKROOM_SPOOL": str(folder / "spool"), **env},
        data=folder / "data", store=None if "DARKROOM_STORE" in env else folder / "store",
        port=0, idle_timeout_seconds=300, drain_seconds=20,
    )  # fmt: skip
    return Endpoint(start(config), folder / "data")


@pytest.fixture(scope="module")
def endpoint(family: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Endpoint]:
    endpoint = serve(tmp_path_factory.mktemp("worker"), family)
    yield endpoint
    endpoint.stop()


def opened(reply: dict[str, Any]) -> bytes:
    """The first picture by its link, checked against its hash."""
    data = httpx.get(reply["images"][0]["url"], trust_env=False).content
    assert hashlib.sha256(data).hexdigest() == reply["images"][0]["sha256"]
    with Image.open(io.BytesIO(data)) as image:
        assert image.size == (reply["images"][0]["width"], reply["images"][0]["height"])
    return data


def test_a_photo_goes_in_and_a_picture_comes_out_by_its_link(endpoint: Endpoint) -> None:
    state = endpoint.end(endpoint.run())
    assert state["status"] == "COMPLETED", endpoint.log()
    opened(state["output"])
    assert state["output"]["timings"]["cold"] is True
    again = endpoint.end(endpoint.run())
    assert again["output"]["timings"]["cold"] is False
    assert opened(again["output"]) == opened(state["output"])


def test_a_job_cancelled_in_mid_denoise_frees_the_worker_within_two_seconds(endpoint: Endpoint) -> None:
    expected = opened(endpoint.end(endpoint.run())["output"])
    long = endpoint.run(num_inference_steps=200, true_cfg_scale=4.0)
    endpoint.until(long, lambda state: state.get("output", {}).get("stage") == "denoise")
    endpoint.http.post(f"/cancel/{long}")
    cancelled = time.monotonic()
    following = endpoint.run()
    endpoint.until(following, lambda state: state["status"] != "IN_QUEUE")
    taken = time.monotonic() - cancelled
    assert opened(endpoint.end(following)["output"]) == expected
    assert endpoint.status(long)["status"] == "CANCELLED"
    # The SDK looks for a free slot once a second, so half of the bound is its own.
    assert taken < 2.0, f"the next job was taken after {taken:.2f} s"


def test_progress_is_seen_while_the_job_runs_and_gives_way_to_the_result(endpoint: Endpoint) -> None:
    job = endpoint.run(num_inference_steps=60)
    state = endpoint.until(job, lambda state: state.get("output", {}).get("stage") == "denoise")
    assert 1 <= state["output"]["done"] <= state["output"]["total"] == 60
    assert "images" in endpoint.end(job)["output"]


def test_a_failure_reaches_the_caller_with_its_code_and_the_worker_goes_on(endpoint: Endpoint) -> None:
    failed = endpoint.raw({"input": {"images": ["file:///etc/passwd"], "prompt": "x"}})
    assert failed["status"] == "FAILED"
    assert failed["error"].startswith("UNSAFE_URL: images[0]")
    assert endpoint.end(endpoint.run())["status"] == "COMPLETED"


def test_health_reports_the_loaded_model(endpoint: Endpoint) -> None:
    endpoint.end(endpoint.run())
    report = endpoint.raw({"input": {"type": "health"}})["output"]
    assert report["models"]["edit"]["state"] == "warm"
    assert report["versions"]["runpod"]


def test_warmup_loads_and_runs_what_it_is_told(endpoint: Endpoint) -> None:
    report = endpoint.raw({"input": {"type": "warmup", "models": ["edit"]}})["output"]
    assert report["status"] == "warm"
    assert report["timings"]["denoise_ms"] > 0
    missing = endpoint.raw({"input": {"type": "warmup", "models": ["vision"]}})
    assert missing["error"].startswith("INVALID_INPUT: models")


def test_logs_hold_no_pictures_and_no_results(endpoint: Endpoint) -> None:
    endpoint.end(endpoint.run())
    log = endpoint.log()
    assert edit_job()["input"]["images"][0][:60] not in log
    assert "iVBOR" not in log  # how a PNG begins in base64
    assert "image_url" not in log
    assert "torchao" not in log


def test_sigterm_finishes_the_running_job_and_takes_no_more(family: Path, tmp_path: Path) -> None:
    endpoint = serve(tmp_path, family)
    try:
        running = endpoint.run(num_inference_steps=100)
        state = endpoint.until(running, lambda state: state.get("output", {}).get("stage") == "denoise")
        worker = worker_pid(state)
        os.kill(worker, signal.SIGTERM)
        signalled = time.monotonic()
        late = endpoint.run()
        assert endpoint.end(running)["status"] == "COMPLETED", endpoint.log()
        while alive(worker):
            assert time.monotonic() - signalled < 60, "the worker outlived its last job"
            time.sleep(0.05)
        taken_over = endpoint.end(late)
        assert taken_over["status"] == "COMPLETED", endpoint.log()
        assert taken_over["workerId"] != state["workerId"]
    finally:
        endpoint.stop()


def worker_pid(state: dict[str, Any], script: str = "handler.py") -> int:
    """The process that runs the worker loop; its heartbeat, a child of it, shares command and environment."""
    name = f"RUNPOD_POD_ID={state['workerId']}".encode()
    mine = {pid for pid in map(int, filter(str.isdigit, os.listdir("/proc"))) if name in told(pid, "environ")}
    handlers = {pid for pid in mine if b"".join(told(pid, "cmdline").split(b"\0")[1:2]).endswith(script.encode())}
    (worker,) = (pid for pid in handlers if parent(pid) not in handlers)
    return worker


def told(pid: int, file: str) -> bytes:
    try:
        return Path(f"/proc/{pid}/{file}").read_bytes()
    except OSError:
        return b""


def parent(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[1])
    except (OSError, IndexError):
        return -1


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def test_a_worker_with_a_bucket_answers_with_links_that_open(family: Path, tmp_path: Path, s3_server: S3Server) -> None:
    endpoint = serve(
        tmp_path, family, DARKROOM_STORE=f"s3://{s3_server.bucket}/worker", BUCKET_ENDPOINT_URL=s3_server.endpoint_url,
        BUCKET_ACCESS_KEY_ID=s3_server.access_key, BUCKET_SECRET_ACCESS_KEY=s3_server.secret,
    )  # fmt: skip
    try:
        state = endpoint.end(endpoint.run(delivery="s3"))
        assert state["status"] == "COMPLETED", endpoint.log()
        assert opened(state["output"])
        assert state["output"]["images"][0]["key"].startswith("worker/")
        assert s3_server.secret not in json.dumps(state) + endpoint.log()
    finally:
        endpoint.stop()
