"""Real SDK workers: what they do to a job, and what becomes of them."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import httpx
import pytest

from darkroom.local import start
from tests.local.conftest import Api, config_of, until


def alive(pid: int) -> bool:
    """Whether the process runs; a dead one that nobody has waited for does not."""
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except FileNotFoundError:
        return False


def warm_both(api: Api) -> None:
    """Have two workers up and idle."""
    if api.health()["workers"]["idle"] < 2:
        for job in [api.run("slow", seconds=1) for _ in range(2)]:
            api.end(job)
        until(api.health, lambda health: health["workers"]["idle"] == 2)


def test_a_job_runs_and_says_how_long_it_took(moody: Api) -> None:
    reply = moody.sync("echo", x=[1, "☃"])
    assert reply["status"] == "COMPLETED"
    assert reply["output"]["echo"] == {"mood": "echo", "x": [1, "☃"]}
    assert reply["delayTime"] >= 0
    assert 0 <= reply["executionTime"] < 5_000
    assert reply["id"].startswith("sync-")
    assert (moody.folder / "data" / "logs" / f"{reply['workerId']}.log").exists()


def test_progress_is_the_output_of_a_running_job(moody: Api) -> None:
    job = moody.run("slow", seconds=0.5)
    state = moody.began(job)
    assert state["output"]["step"] == 1
    assert state["workerId"]
    assert "executionTime" not in state
    assert "step" not in moody.end(job)["output"]


@pytest.mark.parametrize(("mood", "error"), [
    ("raises", "this handler always raises"),
    ("fails", "INVALID_INPUT: no"),
    ("error_is_a_dict", "'error' is no string"),
    ("not_json", "its result never arrived"),
    ("not_a_number", "NaN"),
])
def test_a_failure_has_a_sentence(moody: Api, mood: str, error: str) -> None:
    reply = moody.sync(mood)
    assert reply["status"] == "FAILED"
    assert error in reply["error"]


def test_a_handlers_failure_keeps_its_fields(moody: Api) -> None:
    assert moody.sync("fails")["output"] == {"code": "INVALID_INPUT", "retryable": False, "details": {"field": "x"}}


def test_a_result_over_the_limit_fails_its_job_and_says_so(moody: Api) -> None:
    over = moody.end(moody.run("too_large", bytes=100_001))
    assert (over["status"], over["output"]["code"]) == ("FAILED", "RESULT_TOO_LARGE")
    assert moody.end(moody.run("too_large", bytes=99_000))["status"] == "COMPLETED"
    assert moody.sync("too_large", bytes=150_000)["status"] == "COMPLETED", "runsync has room for more"


def test_a_cancelled_job_is_stopped_and_its_worker_lives(moody: Api, tmp_path: Path) -> None:
    job = moody.run("cancellable", seconds=60, mark=str(tmp_path / "mark"))
    pid = moody.began(job)["output"]["pid"]
    assert moody.http.post(f"/cancel/{job}").json()["status"] == "CANCELLED"
    until((tmp_path / "mark").exists, bool)
    until(moody.health, lambda health: health["workers"]["running"] == 0)
    assert alive(pid)
    assert moody.status(job)["status"] == "CANCELLED"


def test_a_job_that_runs_too_long_is_timed_out_and_stopped(moody: Api, tmp_path: Path) -> None:
    job = moody.run("cancellable", seconds=60, mark=str(tmp_path / "mark"), top={"policy": {"executionTimeout": 1_200}})
    state = moody.end(job)
    assert (state["status"], state["output"]["code"]) == ("TIMED_OUT", "TIMEOUT")
    assert "executionTimeout" in state["error"]
    until((tmp_path / "mark").exists, bool)


def test_a_worker_that_does_not_stop_is_killed(moody: Api) -> None:
    job = moody.run("blocks", seconds=60, top={"policy": {"executionTimeout": 500}})
    assert moody.end(job)["status"] == "TIMED_OUT"
    worker = moody.status(job)["workerId"]
    log = moody.folder / "data" / "endpoint.log"
    until(log.read_text, lambda text: f"worker {worker} is killed: it did not stop {job}" in text)
    until(log.read_text, lambda text: f"worker {worker} ended with status -9" in text)
    assert moody.status(job)["status"] == "TIMED_OUT"


def test_a_worker_killed_in_mid_job_loses_nothing(moody: Api, tmp_path: Path) -> None:
    """The job ends once, on the other worker, at most 5 s later."""
    warm_both(moody)
    mark = tmp_path / "mark"
    job = moody.run("dies_once", mark=str(mark))
    first = moody.began(job)
    os.kill(first["output"]["pid"], signal.SIGKILL)
    killed_at = time.monotonic()
    state = moody.end(job)
    assert time.monotonic() - killed_at < 5
    assert (state["status"], state["output"]) == ("COMPLETED", {"runs": 2})
    assert state["workerId"] != first["workerId"]
    assert len(mark.read_text().splitlines()) == 2


def test_a_handler_that_exits_fails_its_job_in_the_end(moody: Api) -> None:
    state = moody.end(moody.run("exits"), 40)
    assert (state["status"], state["output"]["details"]) == ("FAILED", {"workers_lost": 2})
    assert "the worker process ended 2 times" in state["error"]


def test_a_worker_that_gives_no_sign_of_life_is_replaced(moody: Api, tmp_path: Path) -> None:
    state = moody.end(moody.run("frozen", mark=str(tmp_path / "mark")), 40)
    assert (state["status"], state["output"]) == ("COMPLETED", {"runs": 2})


def test_a_worker_that_asks_for_it_is_restarted(moody: Api) -> None:
    reply = moody.sync("refresh")
    assert (reply["status"], "refresh_worker" in reply["output"]) == ("COMPLETED", False)
    until(lambda: alive(reply["output"]["pid"]), lambda lives: not lives, 10)
    assert moody.sync("echo")["output"]["pid"] != reply["output"]["pid"]


def test_a_client_that_hangs_up_loses_only_its_own_answer(moody: Api) -> None:
    done = moody.health()["jobs"]["completed"]
    with pytest.raises(httpx.ReadTimeout):
        moody.http.post("/runsync", json={"input": {"mood": "slow", "seconds": 1}}, timeout=0.3)
    until(moody.health, lambda health: health["jobs"]["completed"] == done + 1)


def test_a_failed_job_can_be_retried_under_its_id(moody: Api, tmp_path: Path) -> None:
    job = moody.run("fails_once", mark=str(tmp_path / "mark"))
    assert moody.end(job)["status"] == "FAILED"
    assert moody.http.post(f"/retry/{job}").json()["id"] == job
    state = moody.end(job)
    assert (state["status"], state["output"]) == ("COMPLETED", {"fine": True})
    assert "error" not in state


def test_200_jobs_on_two_workers_complete_without_loss_or_duplicate(tmp_path: Path) -> None:
    """Two workers of 20 jobs at a time, so that the SDK's second of pause between polls does not take minutes."""
    endpoint = start(config_of("gated", tmp_path, workers_min=2, workers_max=2))
    api = Api(endpoint.address, tmp_path)
    gate = tmp_path / "gate"
    try:
        jobs = {api.run(number=number, gate=str(gate)): number for number in range(200)}
        # No job ends before both workers hold some, however late one of them boots.
        until(api.health, lambda health: health["workers"]["running"] == 2, 60)
        gate.touch()
        states = {job: api.end(job, 60) for job in jobs}
        assert {job: state["output"]["echo"]["number"] for job, state in states.items()} == jobs
        assert {state["status"] for state in states.values()} == {"COMPLETED"}
        assert len({state["workerId"] for state in states.values()}) == 2
        health = api.health()["jobs"]
        assert health == {"completed": 200, "failed": 0, "inProgress": 0, "inQueue": 0, "retried": 0}
        secret = {"accessId": "id", "accessSecret": "s3cr3t", "bucketName": "b", "endpointUrl": "https://x"}
        reply = api.http.post("/runsync", json={"input": {"gate": str(gate)}, "s3Config": secret})
        assert reply.json()["output"]["s3"] == secret, "the handler gets the caller's bucket"
    finally:
        api.http.close()
        endpoint.stop()


def test_an_idle_worker_goes_and_another_comes_with_the_next_job(tmp_path: Path) -> None:
    endpoint = start(config_of("moody", tmp_path, idle_timeout_seconds=0.5))
    api = Api(endpoint.address, tmp_path)
    try:
        assert api.health()["workers"]["idle"] == 0, "scaled to zero until there is a job"
        low = api.run(top={"policy": {"lowPriority": True}})
        first = api.sync()
        assert api.end(low)["workerId"] == first["workerId"], "low priority waits for a worker that is up"
        until(lambda: alive(first["output"]["pid"]), lambda lives: not lives, 15)
        assert api.health()["workers"]["ready"] == 0
        api.run()
        until(api.health, lambda health: health["workers"]["initializing"] == 1)
    finally:
        api.http.close()
        endpoint.stop()


def test_a_worker_that_never_boots_is_tried_ever_more_slowly_and_the_job_waits(tmp_path: Path) -> None:
    endpoint = start(config_of("never_boots", tmp_path))
    api = Api(endpoint.address, tmp_path)
    try:
        job = api.run()
        health = until(api.health, lambda health: health["workers"]["unhealthy"] >= 2, 10)
        assert "before they ask for a job" in health["problem"]
        assert api.status(job)["status"] == "IN_QUEUE"
        assert "these weights are damaged" in (tmp_path / "data" / "endpoint.log").read_text()
        time.sleep(1)
        assert api.health()["workers"]["unhealthy"] <= 4
    finally:
        api.http.close()
        endpoint.stop()


def test_a_worker_that_finds_itself_unfit_says_why(tmp_path: Path) -> None:
    endpoint = start(config_of("unfit", tmp_path, workers_min=1))
    api = Api(endpoint.address, tmp_path)
    try:
        health = until(api.health, lambda health: "problem" in health, 30)
        assert health["problem"] == "has_weights: RuntimeError: the weights are missing"
    finally:
        api.http.close()
        endpoint.stop()


def test_a_worker_that_hangs_at_boot_is_killed(tmp_path: Path) -> None:
    endpoint = start(config_of("hangs_at_boot", tmp_path, boot_timeout_seconds=0.5, workers_min=1))
    try:
        until((tmp_path / "data" / "endpoint.log").read_text, lambda log: "asked for no job within 0.5 s" in log, 10)
    finally:
        endpoint.stop()
