"""Local endpoints with real SDK workers. They are shared, because the SDK takes seconds to import."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from darkroom.local import EndpointConfig, Limits, start

WORKERS = Path(__file__).parents[1] / "fakes" / "workers"
QUICK = {
    # Two-core machines run these tests: everything that a person would not wait for is short.
    "port": 0, "idle_timeout_seconds": 300, "ping_interval_seconds": 1, "ping_timeout_seconds": 4,
    "stop_grace_seconds": 6, "drain_seconds": 0,
}
QUICK_LIMITS = {"execution_timeout_min_seconds": 0.1, "run_bytes": 100_000, "runsync_bytes": 200_000,
                "webhook_delay_seconds": 0.2}


def config_of(worker: str, folder: Path, *, limits: dict[str, Any] | None = None, **changes: Any) -> EndpointConfig:
    """An endpoint in `folder` whose workers run a script of tests/fakes/workers."""
    return EndpointConfig(command=(sys.executable, str(WORKERS / f"{worker}.py")), data=folder / "data",
                          store=folder / "store", limits=Limits(**{**QUICK_LIMITS, **(limits or {})}),
                          **{**QUICK, **changes})


class Api:
    """A client of API v2 that is no more than HTTP."""

    def __init__(self, address: str, folder: Path, **headers: str) -> None:
        self.address = address
        self.folder = folder
        self.http = httpx.Client(base_url=f"{address}/v2/local", headers=headers, timeout=60, trust_env=False)

    def run(self, mood: str = "echo", *, top: dict[str, Any] | None = None, **input: Any) -> str:
        """Submit a job; its id."""
        reply = self.http.post("/run", json={"input": {"mood": mood, **input}, **(top or {})})
        assert reply.status_code == 200, reply.text
        assert reply.json()["status"] in ("IN_QUEUE", "IN_PROGRESS")
        return str(reply.json()["id"])

    def sync(self, mood: str = "echo", **input: Any) -> dict[str, Any]:
        """Submit a job and wait for its end."""
        return self.http.post("/runsync", json={"input": {"mood": mood, **input}}).json()

    def status(self, job: str) -> dict[str, Any]:
        return self.http.get(f"/status/{job}").json()

    def health(self) -> dict[str, Any]:
        return self.http.get("/health").json()

    def end(self, job: str, seconds: float = 30) -> dict[str, Any]:
        """The job's status once it has ended."""
        return self.until(job, lambda state: state["status"] not in ("IN_QUEUE", "IN_PROGRESS"), seconds)

    def began(self, job: str, seconds: float = 30) -> dict[str, Any]:
        """The job's status once it has reported progress, and the `pid` of its worker in it."""
        return self.until(job, lambda state: state["status"] == "IN_PROGRESS" and "output" in state, seconds)

    def until(self, job: str, fine: Callable[[dict[str, Any]], bool], seconds: float = 30) -> dict[str, Any]:
        return until(lambda: self.status(job), fine, seconds)


def until(look: Callable[[], Any], fine: Callable[[Any], bool], seconds: float = 30) -> Any:
    """What `look` sees once it is fine."""
    give_up = time.monotonic() + seconds
    while not fine(seen := look()):
        assert time.monotonic() < give_up, f"not within {seconds} s; last seen: {seen}"
        time.sleep(0.02)
    return seen


@pytest.fixture(scope="session")
def moody(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    """Up to two workers that misbehave as the job says; a job is tried twice."""
    folder = tmp_path_factory.mktemp("moody")
    endpoint = start(config_of("moody", folder, workers_max=2, max_attempts=2))
    api = Api(endpoint.address, folder)
    yield api
    api.http.close()
    endpoint.stop()


@pytest.fixture(scope="session")
def nobody(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    """An endpoint without workers: jobs stay in the queue."""
    folder = tmp_path_factory.mktemp("nobody")
    endpoint = start(config_of("moody", folder, workers_max=0, limits={"queue_free": 20, "queue_per_worker": 1}))
    api = Api(endpoint.address, folder)
    yield api
    api.http.close()
    endpoint.stop()
