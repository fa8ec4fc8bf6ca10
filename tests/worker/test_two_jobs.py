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
    """Less than the sum of what each job took, its wait for the torch thread apart; near the longer of the two."""
    started = time.monotonic()
    jobs = [endpoint.run(num_inference_steps=30, seed=seed) for seed in range(JOBS)]
    timings = [endpoint.end(job)["output"]["timings"] for job in jobs]
    taken = time.monotonic() - started
    computing, storing = (
        sum(sum(timing[f"{phase}_ms"] for phase in phases) for timing in timings) / 1000
        for phases in (("encode", "denoise", "decode"), ("upload",))
    )
    print(f"{JOBS} jobs took {taken:.1f} s: {computing:.1f} s of computing and {storing:.1f} s of storing")
    assert storing >= JOBS * STORE_SECONDS
    assert taken < 0.8 * (computing + storing)


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
