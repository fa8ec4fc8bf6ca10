"""The endpoint is killed and started again: nothing is lost, and no worker outlives it."""

from __future__ import annotations

import os
import time
from pathlib import Path

from darkroom.local import start
from tests.local.conftest import Api, config_of, until
from tests.local.test_workers import alive


def test_a_killed_endpoint_goes_on_where_it_was(tmp_path: Path) -> None:
    config = config_of("moody", tmp_path, workers_max=1, drain_seconds=10)
    endpoint = start(config)
    api = Api(endpoint.address, tmp_path)
    done = api.sync()["id"]
    mark = tmp_path / "mark"
    running = api.run("dies_once", mark=str(mark))
    queued = [api.run(number=number) for number in range(2)]
    pid = api.began(running)["output"]["pid"]
    group = os.getpgid(pid)
    endpoint.kill()
    api.http.close()
    until(lambda: alive(pid), lambda lives: not lives)
    until(lambda: members(group), lambda left: not left)

    endpoint = start(config)
    api = Api(endpoint.address, tmp_path)
    assert api.status(done)["status"] == "COMPLETED"
    assert api.end(running)["output"] == {"runs": 2}
    assert [api.end(job)["output"]["echo"]["number"] for job in queued] == [0, 1]
    assert api.health()["jobs"]["completed"] == 4

    # An orderly stop lets the running job end and keeps the others.
    last = api.run("slow", seconds=0.8)
    pid = api.began(last)["output"]["pid"]
    kept = api.run()
    endpoint.stop()
    api.http.close()
    assert not alive(pid)
    endpoint = start(config.model_copy(update={"workers_max": 0}))
    api = Api(endpoint.address, tmp_path)
    assert api.status(last)["status"] == "COMPLETED"
    assert api.status(kept)["status"] == "IN_QUEUE"
    api.http.close()
    endpoint.stop()


def members(group: int) -> list[int]:
    """Living processes of a process group."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and os.getpgid(int(entry.name)) == group and alive(int(entry.name)):
                found.append(int(entry.name))
        except ProcessLookupError:
            continue
    return found


def test_1000_queued_jobs_survive_a_kill(tmp_path: Path) -> None:
    """tests/local/measure.py measures the seconds; here they are only sane."""
    config = config_of("moody", tmp_path, workers_max=0, limits={"queue_free": 2_000})
    endpoint = start(config)
    api = Api(endpoint.address, tmp_path)
    jobs = [api.run(number=number) for number in range(1_000)]
    endpoint.kill()
    api.http.close()
    started = time.monotonic()
    endpoint = start(config)
    assert time.monotonic() - started < 20
    api = Api(endpoint.address, tmp_path)
    assert api.health()["jobs"]["inQueue"] == 1_000
    assert {api.status(job)["status"] for job in jobs[::50]} == {"IN_QUEUE"}
    assert api.http.post("/purge-queue").json()["removed"] == 1_000
    api.http.close()
    endpoint.stop()
