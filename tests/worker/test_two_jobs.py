"""Two jobs in one worker under the unmodified SDK loop: the pipeline's gain, and an end that loses neither."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from darkroom.local import EndpointConfig, start
from tests.worker.test_worker import ROOT, Endpoint, alive, worker_pid

STORE_SECONDS = 1.0
JOBS = 6


@pytest.fixture(scope="module")
def endpoint(family: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Endpoint]:
    """One worker whose store takes STORE_SECONDS for every picture."""
    folder = tmp_path_factory.mktemp("worker")
    config = EndpointConfig(
        command=(sys.executable, str(ROOT / "tests" / "fakes" / "workers" / "slow_store.py")),
        env={"DARKROOM_PROFILE": "pocket", "DARKROOM_EDIT_MODEL": str(family), "STORE_SECONDS": str(STORE_SECONDS),
             "DARKROOM_PROGRESS_SECONDS": "0.02", "DARKROOM_SPOOL": str(folder / "spool")},
        data=folder / "data", store=folder / "store", port=0, idle_timeout_seconds=300, drain_seconds=20,
    )  # fmt: skip
    endpoint = Endpoint(start(config), folder / "data")
    endpoint.end(endpoint.run())
    yield endpoint
    endpoint.stop()


def test_uploads_run_beside_the_next_jobs_computing(endpoint: Endpoint) -> None:
    """Jobs one after the other take at least the sum of their times; these are in the worker two at a time."""
    started = time.monotonic()
    jobs = [endpoint.run(num_inference_steps=30, seed=seed) for seed in range(JOBS)]
    replies = [endpoint.end(job) for job in jobs]
    taken = time.monotonic() - started
    inside = sum(reply["executionTime"] for reply in replies) / 1000
    storing = sum(reply["output"]["timings"]["upload_ms"] for reply in replies) / 1000
    print(f"{JOBS} jobs took {taken:.1f} s, {inside:.1f} s in the worker one by one, {storing:.1f} s of it storing")
    assert storing >= JOBS * STORE_SECONDS
    assert inside > 1.1 * taken


def test_a_job_cancelled_in_the_worker_while_it_waits_frees_its_place(endpoint: Endpoint) -> None:
    long = endpoint.run(num_inference_steps=200, true_cfg_scale=4.0)
    endpoint.until(long, lambda state: state.get("output", {}).get("stage") == "denoise")
    waiting = endpoint.run()
    endpoint.until(waiting, lambda state: state["status"] == "IN_PROGRESS")
    endpoint.http.post(f"/cancel/{waiting}")
    following = endpoint.run()
    endpoint.until(following, lambda state: state["status"] == "IN_PROGRESS")
    assert endpoint.status(long)["status"] == "IN_PROGRESS"
    endpoint.http.post(f"/cancel/{long}")
    assert endpoint.end(following)["status"] == "COMPLETED", endpoint.log()
    assert endpoint.status(waiting)["status"] == "CANCELLED"


def test_sigterm_answers_both_jobs_in_flight(endpoint: Endpoint) -> None:
    jobs = [endpoint.run(num_inference_steps=60, seed=seed) for seed in (1, 2)]
    held = [endpoint.until(job, lambda state: state["status"] == "IN_PROGRESS") for job in jobs]
    process = worker_pid(held[0], "slow_store.py")
    endpoint.until(jobs[0], lambda state: state.get("output", {}).get("stage") == "denoise")
    os.kill(process, signal.SIGTERM)
    for job in jobs:
        state = endpoint.end(job)
        assert (state["status"], state["workerId"]) == ("COMPLETED", held[0]["workerId"]), endpoint.log()
    give_up = time.monotonic() + 60
    while alive(process):
        assert time.monotonic() < give_up, "the worker outlived its last job"
        time.sleep(0.05)
