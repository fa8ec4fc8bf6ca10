"""Seconds and memory of each stage of a job."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from resource import RUSAGE_SELF, getrusage
from typing import Any

import torch

from darkroom.timing import Clock

MIB = 2**20


@dataclass
class Stages:
    """Named stages on a job's clock; memory is the device's highest while it ran, on the CPU the process's so far.

    A stage that is entered again adds its seconds and keeps its highest memory.
    """

    clock: Clock
    device: torch.device
    peak_mib: dict[str, float] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def stage(self, name: str, span: str | None = None) -> Iterator[None]:
        """Time and weigh a block; span: the name on the job's clock, the stage's own by default."""
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
        own = Clock()
        try:
            with own.span(name), self.clock.span(span or name):
                yield
                if self.device.type == "cuda":
                    torch.cuda.synchronize(self.device)
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + own.seconds[name]
            self.peak_mib[name] = max(self.peak_mib.get(name, 0.0), self._memory() / MIB)

    def report(self) -> dict[str, Any]:
        """JSON values: seconds and memory_mib by stage."""
        return {
            "memory_of": "the device, at its highest"
            if self.device.type == "cuda"
            else "this process, at its highest so far",
            "stages": {
                name: {"seconds": round(seconds, 4), "memory_mib": round(self.peak_mib[name], 1)}
                for name, seconds in self.seconds.items()
            },
        }

    def _memory(self) -> float:
        if self.device.type == "cuda":
            return float(torch.cuda.max_memory_allocated(self.device))
        # In KiB on Linux, in bytes on macOS; what a process has given back is not taken off.
        return getrusage(RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
