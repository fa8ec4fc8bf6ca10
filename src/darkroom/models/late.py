"""A part of a model that is still on its way while others work already."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import Future, wait
from typing import Any

Take = Callable[[Any], None]
"""Puts a part that has come in its place."""


class Late:
    """A future for the torch thread. settle: given this and `Take`, waits for `part` and hands it over.

    What `settle` raises is raised by every later `deliver`, too: a part that did not come will not come.
    """

    def __init__(self, loading: Future[Any], settle: Callable[[Late, Take], None]) -> None:
        self._loading, self._settle = loading, settle
        self._fault: Exception | None = None
        self._came_at = 0.0
        loading.add_done_callback(self._note)

    def came(self, seconds: float = 0.0) -> bool:
        """Wait at most so long; whether the loading has ended, well or badly."""
        return self._loading in wait([self._loading], seconds).done

    def part(self) -> tuple[Any, float]:
        """Wait for the part; itself, and when it came by `time.perf_counter`. Raises what its loading raised."""
        part = self._loading.result()
        # A future wakes those who wait before it calls back.
        return part, self._came_at or time.perf_counter()

    def deliver(self, take: Take) -> None:
        """Hand the part over, once."""
        if self._fault is not None:
            raise self._fault
        try:
            self._settle(self, take)
        except Exception as fault:
            self._fault = fault
            raise

    def _note(self, _: Future[Any]) -> None:
        self._came_at = time.perf_counter()
