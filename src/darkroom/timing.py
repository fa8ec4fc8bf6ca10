"""Named spans of one job, cold or warm, and what they cost."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TypeVar

T = TypeVar("T")

USD_PER_SECOND = {
    # RunPod serverless, flex: dollars per second of a worker, by the beginning of the card's name as torch reports it.
    # A100, L4 and H200 stand in this project's design; all of them, and RunPod's own names in the comments, in
    # RunPod's documentation, https://docs.runpod.io/serverless/pricing, as read in November 2026.
    "NVIDIA L4": 0.00019,  # "L4, A5000, 3090"
    "NVIDIA RTX A5000": 0.00019,  # "L4, A5000, 3090"
    "NVIDIA GeForce RTX 3090": 0.00019,  # "L4, A5000, 3090"
    "NVIDIA GeForce RTX 4090": 0.00031,  # "4090 PRO"
    "NVIDIA RTX A6000": 0.00034,  # "A6000, A40"
    "NVIDIA A40": 0.00034,  # "A6000, A40"
    "NVIDIA L40": 0.00053,  # "L40, L40S, 6000 Ada PRO"
    "NVIDIA L40S": 0.00053,  # "L40, L40S, 6000 Ada PRO"
    "NVIDIA RTX 6000 Ada": 0.00053,  # "L40, L40S, 6000 Ada PRO"
    "NVIDIA A100": 0.00076,  # "A100"
    "NVIDIA H100": 0.00116,  # "H100 PRO"
    "NVIDIA H200": 0.00155,  # "H200 PRO"
}
OTHER_CARDS = ("NVIDIA GeForce RTX 3090 Ti", "NVIDIA GeForce RTX 4090 D", "NVIDIA GeForce RTX 4090 Laptop")
"""Their names begin like a card of the table, but RunPod names no price for them."""


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


def card_of(gpu: str) -> str | None:
    """The card of the price table that a name means: torch's, RunPod's or people's ('L4', 'RTX 4090'), or None."""
    full = [f"{brand}{gpu}" for brand in ("", "NVIDIA ", "NVIDIA RTX ", "NVIDIA GeForce ", "NVIDIA GeForce RTX ")]
    if any(_begins(name, other) for name in full for other in OTHER_CARDS):
        return None
    return next((card for name in full for card in USD_PER_SECOND if _begins(name, card)), None)


def _begins(name: str, card: str) -> bool:
    """'NVIDIA A100-SXM4-80GB' begins with 'NVIDIA A100', 'NVIDIA L40S' does not begin with 'NVIDIA L4'."""
    return name == card or name.startswith((card + " ", card + "-"))


def usd_per_second(gpu: str | None) -> float | None:
    """The price of a card by its name, or None where the table does not know it."""
    card = None if gpu is None else card_of(gpu)
    return None if card is None else USD_PER_SECOND[card]


def cost(gpu: str | None, gpu_seconds: float, price: float | None) -> dict[str, object]:
    """The reply's `cost`; usd is null where no price is known, never a guess."""
    usd = None if price is None else round(gpu_seconds * price, 8)
    return {"gpu": gpu, "gpu_seconds": round(gpu_seconds, 4), "usd": usd}
