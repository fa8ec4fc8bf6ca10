"""When to try again, and how long to wait first."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime


@dataclass(frozen=True)
class Retry:
    """How stubborn a client is. Times in seconds.

    `attempts` bounds the tries of one HTTP call, `job_attempts` the runs of one job that fails with a
    retryable code; `patience_seconds` bounds how long one call puts up with 429, which is no failure.
    """

    attempts: int = 5
    job_attempts: int = 3
    base_seconds: float = 0.5
    most_seconds: float = 20.0
    patience_seconds: float = 300.0

    def __post_init__(self) -> None:
        times = (self.base_seconds, self.most_seconds, self.patience_seconds)
        if min(self.attempts, self.job_attempts) < 1 or min(times) < 0:
            raise ValueError("attempts must be at least 1 and no time may be negative")

    def backoff(self, failures: int, random_unit: Callable[[], float] = random.random) -> float:
        """Seconds to wait after so many failures (≥ 1): doubling, capped, the upper half of it random."""
        whole: float = min(self.most_seconds, self.base_seconds * 2 ** min(failures - 1, 30))
        return whole * (0.5 + 0.5 * random_unit())


def retry_after(headers: Mapping[str, str], fallback_seconds: float) -> float:
    """Seconds that a Retry-After header asks for, given as a number or a date (RFC 9110, 10.2.3)."""
    value = next((v for k, v in headers.items() if k.lower() == "retry-after"), "").strip()
    if not value:
        return fallback_seconds
    if value.isascii() and value.replace(".", "", 1).isdigit():
        return float(value)
    try:
        moment = parsedate_to_datetime(value)
    except ValueError:
        return fallback_seconds
    aware = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return max(0.0, (aware - datetime.now(UTC)).total_seconds())


class Gate:
    """One 429 holds back every call of a client, not only the one that met it."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._opens_at = 0.0

    def close(self, seconds: float) -> None:
        """Keep shut for so long from now, or longer where that was already agreed."""
        self._opens_at = max(self._opens_at, self._clock() + seconds)

    def delay(self) -> float:
        """Seconds until calls may go out again, 0 when they may."""
        return max(0.0, self._opens_at - self._clock())
