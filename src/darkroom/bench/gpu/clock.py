"""Seconds and memory as the device sees them."""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

GIB = 2**30


@dataclass(frozen=True)
class Timed:
    """Seconds of equal runs after a warm-up."""

    seconds: tuple[float, ...]

    @property
    def median(self) -> float:
        """The middle one."""
        return statistics.median(self.seconds)

    def as_json(self) -> dict[str, Any]:
        """Median, spread (largest less smallest) and how many runs."""
        return {
            "median_seconds": self.median,
            "spread_seconds": max(self.seconds) - min(self.seconds),
            "runs": len(self.seconds),
        }


def synchronise(device: torch.device) -> None:
    """Wait until the device has done all that it was told."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def once(run: Callable[[], Any], device: torch.device) -> tuple[float, Any]:
    """Seconds and result of one run, the device idle at both ends."""
    synchronise(device)
    started = time.perf_counter()
    result = run()
    synchronise(device)
    return time.perf_counter() - started, result


def timed(run: Callable[[], Any], device: torch.device, runs: int) -> Timed:
    """`runs` runs, each waited for. Warm up first."""
    return Timed(tuple(once(run, device)[0] for _ in range(runs)))


def release(device: torch.device) -> None:
    """Hand all memory that nothing uses back to a GPU."""
    if device.type == "cuda":
        gc.collect()
        torch.cuda.empty_cache()


def used_gib(device: torch.device) -> float | None:
    """Memory in use on the whole device: weights, activations, the allocator's reserve, CUDA's own. None on a CPU.

    After a run this is the run's peak, since the allocator returns nothing before `release`.
    """
    if device.type != "cuda":
        return None
    free, total = torch.cuda.mem_get_info(device)
    return (total - free) / GIB
