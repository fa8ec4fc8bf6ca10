"""One job on its way through the service: who asked for what, where it goes, and how long it took."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from darkroom.delivery import Wish, folder_of
from darkroom.jobs import JobInput
from darkroom.storage import Store
from darkroom.timing import Clock


@dataclass
class Ticket:
    """request: what was asked, as it may be written down. cold: the job paid for loading or is the worker's first.

    recorded: the store has the whole result, and answers for the idempotency key. held: whether this worker is still
    the one that makes the key's result.
    """

    job_id: str
    job: JobInput
    store: Store
    request: dict[str, Any]
    clock: Clock = field(default_factory=Clock)
    gpu_seconds: float = 0.0
    cold: bool = False
    recorded: bool = False
    held: Callable[[], bool] = lambda: True
    warnings: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.request_hash = self.job.request_hash()
        self.folder = folder_of(self.job_id)

    def making(self) -> dict[str, Any]:
        """How the result was made, for a later try that finds it kept."""
        return {"seconds": self.clock.seconds, "gpu_seconds": self.gpu_seconds, "cold": self.cold,
                "warnings": self.warnings}  # fmt: skip

    def take_over(self, making: dict[str, Any]) -> None:
        """Answer for the earlier try: its seconds, cost and warnings are the result's."""
        for name, seconds in making["seconds"].items():
            self.clock.add(name, seconds)
        self.gpu_seconds, self.cold = making["gpu_seconds"], making["cold"]
        self.warnings += making["warnings"]

    @property
    def spool_name(self) -> str:
        """A retry finds a kept result by its idempotency key, or else by its job id."""
        return f"key {self.job.idempotency_key}" if self.job.idempotency_key else f"job {self.job_id}"

    @property
    def wish(self) -> Wish:
        """How the caller wants the files."""
        return Wish(getattr(self.job, "delivery", "auto"), getattr(self.job, "expires_seconds", 3600))
