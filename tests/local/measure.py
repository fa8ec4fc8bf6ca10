"""Measures the endpoint's own share of a job, and how fast it comes back with a full queue. Not a test.

    .venv/bin/python -m tests.local.measure [--jobs 300] [--queued 1000]

The own share is what the endpoint adds between a client and a worker that already waits: from the request
to the worker's job-take answer, and from the worker's job-done to the client's /runsync answer. The worker
here is a bare HTTP loop, so that none of the SDK's pauses (0.1 s before it begins a job, up to 1 s before it
asks for the next) are in the figure.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import tempfile
import time
from pathlib import Path

import httpx

from darkroom.local import start
from tests.local.conftest import config_of


def main() -> None:
    """Print both measurements as JSON."""
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--jobs", type=int, default=300)
    arguments.add_argument("--queued", type=int, default=1_000)
    options = arguments.parse_args()
    machine = {"cpu": platform.machine(), "cores": os.cpu_count(), "load": os.getloadavg()[0]}
    print(json.dumps({"machine": machine, "own_share": own_share(options.jobs), "restart": restart(options.queued)},
                     indent=2))


def own_share(jobs: int) -> dict[str, object]:
    """Milliseconds of the endpoint alone, over so many /runsync jobs one after the other."""
    sent: dict[int, float] = {}
    taken: dict[int, float] = {}
    done: dict[int, float] = {}
    answered: dict[int, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        endpoint = start(config_of("bare", Path(folder)))
        with httpx.Client(base_url=f"{endpoint.address}/v2/local", timeout=60, trust_env=False) as client:
            client.post("/runsync", json={"input": {"clock": False}})
            for number in range(jobs):
                time.sleep(0.01)  # the worker's next poll is open
                sent[number] = time.monotonic()
                output = client.post("/runsync", json={"input": {"clock": True}}).json()["output"]
                answered[number] = time.monotonic()
                taken[number], done[number] = output["taken"], output["done"]
        endpoint.stop()
    before = [1000 * (taken[n] - sent[n]) for n in sent]
    after = [1000 * (answered[n] - done[n]) for n in sent]
    both = [a + b for a, b in zip(before, after, strict=True)]
    return {"jobs": jobs, "request_to_job_take_ms": spread(before), "job_done_to_reply_ms": spread(after),
            "both_ms": spread(both)}


def spread(values: list[float]) -> dict[str, float]:
    """p50, p95, p99 and the largest."""
    cuts = statistics.quantiles(values, n=100)
    return {"p50": round(cuts[49], 2), "p95": round(cuts[94], 2), "p99": round(cuts[98], 2),
            "max": round(max(values), 2)}


def restart(queued: int) -> dict[str, object]:
    """Seconds from the start of a killed endpoint to its first answer, with so many jobs queued."""
    with tempfile.TemporaryDirectory() as folder:
        config = config_of("bare", Path(folder), workers_max=0, limits={"queue_free": queued})
        endpoint = start(config)
        with httpx.Client(base_url=f"{endpoint.address}/v2/local", trust_env=False) as client:
            started = time.monotonic()
            for number in range(queued):
                client.post("/run", json={"input": {"number": number}}).raise_for_status()
            submitted = time.monotonic() - started
        endpoint.kill()
        started = time.monotonic()
        endpoint = start(config)
        health = httpx.get(f"{endpoint.address}/v2/local/health", trust_env=False).json()
        seconds = time.monotonic() - started
        endpoint.stop()
    assert health["jobs"]["inQueue"] == queued
    return {"queued": queued, "seconds": round(seconds, 3), "submit_ms_each": round(1000 * submitted / queued, 2)}


if __name__ == "__main__":

    main()
