"""How many workers there should be. A pure function of what waits, what runs and who is up."""

from __future__ import annotations

import math

from darkroom.local.config import EndpointConfig
from darkroom.local.queue import Load


def workers_wanted(config: EndpointConfig, load: Load, *, alive: int, booting: int) -> int:
    """The number of workers to have now; never fewer than are alive, because only idleness ends a worker.

    `alive` counts every process that has not been told to leave, `booting` those of them that have not
    asked for a job yet. Jobs of low priority wait for workers that are up anyway, and start none.
    """
    by_need = _by_request_count if config.scaler == "request_count" else _by_queue_delay
    need = by_need(config, load, alive, booting)
    return max(alive, min(config.workers_max, max(config.workers_min, need)))


def _by_request_count(config: EndpointConfig, load: Load, alive: int, booting: int) -> int:
    if load.queued == 0:
        return alive
    return math.ceil((load.queued + load.running) / config.scaler_value)


def _by_queue_delay(config: EndpointConfig, load: Load, alive: int, booting: int) -> int:
    if load.queued == 0:
        return alive
    if alive == 0:
        return 1
    # A job also waits out a cold start; that is no reason to begin another one.
    return alive + 1 if load.oldest_wait > config.scaler_value and not booting else alive
