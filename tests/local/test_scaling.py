"""How many workers there should be."""

from __future__ import annotations

import pytest

from darkroom.local.config import EndpointConfig
from darkroom.local.queue import Load
from darkroom.local.scaling import workers_wanted


def wanted(*, queued: int = 0, low: int = 0, running: int = 0, wait: float = 0.0, alive: int = 0, booting: int = 0,
           **config: object) -> int:
    settings = EndpointConfig(command=("x",), **{"workers_max": 4, **config})
    return workers_wanted(settings, Load(queued, low, running, wait), alive=alive, booting=booting)


@pytest.mark.parametrize("scaler", ["request_count", "queue_delay"])
def test_no_job_no_worker_beyond_the_minimum(scaler: str) -> None:
    assert wanted(scaler=scaler) == 0
    assert wanted(scaler=scaler, workers_min=2) == 2


@pytest.mark.parametrize("scaler", ["request_count", "queue_delay"])
def test_a_job_of_low_priority_starts_no_worker(scaler: str) -> None:
    assert wanted(scaler=scaler, low=9) == 0


@pytest.mark.parametrize("scaler", ["request_count", "queue_delay"])
def test_the_first_job_starts_the_first_worker_at_once(scaler: str) -> None:
    assert wanted(scaler=scaler, queued=1, scaler_value=4) == 1


def test_request_count_keeps_so_many_jobs_per_worker() -> None:
    assert wanted(queued=5, running=1, alive=1, scaler_value=3) == 2
    assert wanted(queued=100, alive=1, scaler_value=1) == 4, "never more than workers_max"


def test_queue_delay_adds_one_worker_at_a_time_once_a_job_waits_too_long() -> None:
    delay = {"scaler": "queue_delay", "scaler_value": 4, "queued": 9}
    assert wanted(**delay, alive=1, wait=3.9) == 1
    assert wanted(**delay, alive=1, wait=4.1) == 2
    assert wanted(**delay, alive=2, booting=1, wait=60) == 2, "a cold start is no reason for another one"
    assert wanted(**delay, alive=4, wait=60) == 4


def test_scaling_ends_no_worker() -> None:
    assert wanted(alive=3) == 3
