"""Named spans of one job, cold or warm, and what they cost."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TypeVar

T = TypeVar("T")

USD_PER_SECOND = {
    # RunPod serverless flex prices; prefixes of the card's name as torch reports it, longest first.
    "NVIDIA H200": 0.00155,
    "NVIDIA A100": 0.00076,
    "NVIDIA L4": 0.00019,
}


@dataclass
class Clock:
    """Adds up wall-clock seconds by name; spans of the same name accumulate."""

    seconds: dict[str, float] = field(default_factory=dict)
    _started: float = field(default_factory=time.perf_counter)

    @contextmanager
    def span(self, name: str) -> Iterator[None]:
        """Time a block, even one that raises."""
        started = time.perf_counter()
        try:
            yield
        finally:
            self.add(name, time.perf_counter() - started)

    def timed(self, name: str, items: Iterable[T]) -> Iterator[T]:
        """Time the making of each item, not what is done with it."""
        iterator = iter(items)
        while True:
            with self.span(name):
                try:
                    item = next(iterator)
                except StopIteration:
                    return
            yield item

    def add(self, name: str, seconds: float) -> None:
        """Count seconds that were measured elsewhere."""
        self.seconds[name] = self.seconds.get(name, 0.0) + seconds

    def elapsed(self) -> float:
        """Seconds since the clock was made."""
        return time.perf_counter() - self._started

    def report(self, *names: str) -> dict[str, float]:
        """Milliseconds of the named spans, 0 for those that did not happen, and the total."""
        report = {f"{name}_ms": round(1000 * self.seconds.get(name, 0.0), 3) for name in names}
        return {**report, "total_ms": round(1000 * self.elapsed(), 3)}


def usd_per_second(gpu: str | None) -> float | None:
    """The price of a card by its name, or None where the table does not know it."""
    if gpu is None:
        return None
    matches = [name for name in USD_PER_SECOND if gpu == name or gpu.startswith((name + " ", name + "-"))]
    return USD_PER_SECOND[max(matches, key=len)] if matches else None


def cost(gpu: str | None, gpu_seconds: float, price: float | None) -> dict[str, object]:
    """The reply's `cost`; usd is null where no price is known, never a guess."""
    usd = None if price is None else round(gpu_seconds * price, 8)
    return {"gpu": gpu, "gpu_seconds": round(gpu_seconds, 4), "usd": usd}
