"""Training beside other work: leave others half of the cores while they are busy."""

import os
import time
from collections.abc import Iterator
from pathlib import Path

import torch

# So many steps pass between two looks.
_EVERY = 10


class FreeCores:
    """Counts, since the last call, how many cores other processes left free; at least 1.

    Reads the kernel's counters; where there are none (not Linux), all cores count as free.
    """

    def __init__(self, counters: Path = Path("/proc/stat")) -> None:
        self._counters = counters
        self._last = self._read()

    def __call__(self) -> int:
        cores = os.cpu_count() or 1
        before, self._last = self._last, self._read()
        wall, busy, own = (now - then for now, then in zip(self._last, before, strict=True))
        if wall <= 0:
            return cores
        others = max(0.0, busy - own) / wall
        return max(1, round(cores - others))

    def _read(self) -> tuple[float, float, float]:
        """Seconds since some start: wall clock, all cores busy, this process."""
        # With the processes that compiled for this one.
        own = sum(os.times()[:4])
        if not self._counters.exists():
            return time.monotonic(), own, own
        fields = [int(field) for field in self._counters.read_text().split("\n", 1)[0].split()[1:]]
        idle = fields[3] + fields[4]
        return time.monotonic(), (sum(fields[:8]) - idle) / os.sysconf("SC_CLK_TCK"), own


def beside_others(steps: Iterator[int]) -> Iterator[int]:
    """The same steps, while torch takes all cores, or half of them while others are busy; afterwards what it had.

    Two numbers and no more: for each, what is compiled is compiled anew.
    """
    free, before, cores = FreeCores(), torch.get_num_threads(), os.cpu_count() or 1
    torch.set_num_threads(cores)
    try:
        for step in steps:
            if step % _EVERY == _EVERY - 1:
                torch.set_num_threads(cores if free() >= cores else max(1, cores // 2))
            yield step
    finally:
        torch.set_num_threads(before)
