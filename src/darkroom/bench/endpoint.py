"""A whole run: cold starts, warm jobs, report, table and plots."""

from __future__ import annotations

import contextlib
import json
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from darkroom.bench.latency import POLLING, Request, Sample, Warm, timed, wait_until_cold, warm_jobs
from darkroom.bench.picture import load, variant
from darkroom.bench.report import markdown
from darkroom.client import AsyncClient, Retry
from darkroom.client.request import edit_input

Fresh = Callable[[], AbstractAsyncContextManager[str]]
"""Gives the address of an endpoint that has no live worker, for the length of a block."""


@dataclass(frozen=True)
class Plan:
    """What to run. `fields` are those of image_edit; `same_picture` lets caches of encodings work."""

    cold: int
    warm: int
    concurrency: int
    prompt: str
    image: Path | None = None
    same_picture: bool = False
    fields: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if min(self.cold, self.warm) < 0 or self.concurrency < 1 or self.cold + self.warm == 0:
            raise ValueError("cold and warm must not be negative nor both 0, and concurrency must be at least 1")

    def settings(self) -> dict[str, Any]:
        """For the report."""
        picture = load(self.image)
        return {
            "cold": self.cold, "warm": self.warm, "concurrency": self.concurrency, "prompt": repr(self.prompt),
            "picture": f"{picture.width}×{picture.height}",
            "pictures": "the same" if self.same_picture else "one each",
            "poll_ms": 1000 * POLLING.least_seconds, **self.fields,
        }

    def request(self) -> Request:
        """Job number -> input. Raises InvalidInput for a bad field, OSError for a missing picture."""
        picture = load(self.image)

        def job(number: int) -> dict[str, Any]:
            data = variant(picture, 0 if self.same_picture else number)
            return edit_input(data, self.prompt, {"seed": abs(number), **self.fields})

        job(0)
        return job


async def measure(
    plan: Plan, fresh: Fresh, api_key: str | None, tell: Callable[[Sample], None]
) -> tuple[list[Sample], Warm]:
    """Cold starts one after the other, then the warm jobs on the workers of the last. Raises ClientError."""
    request = plan.request()
    cold: list[Sample] = []
    for number in range(plan.cold):
        last = number == plan.cold - 1
        async with fresh() as address, _client(address, api_key) as client:
            cold.append(await timed(client, "cold", request(10_000 + number)))
            tell(cold[-1])
            if last and plan.warm:
                return cold, await warm_jobs(client, request, plan.warm, plan.concurrency, tell)
    if not plan.warm:
        return cold, Warm([], 0.0)
    async with fresh() as address, _client(address, api_key) as client:
        return cold, await warm_jobs(client, request, plan.warm, plan.concurrency, tell)


def _client(address: str, api_key: str | None) -> AsyncClient:
    return AsyncClient(address, api_key=api_key, polling=POLLING, retry=Retry(job_attempts=1))


def remote(address: str, api_key: str | None, idle_seconds: float, any_worker: bool) -> Fresh:
    """An endpoint that runs elsewhere, once its idle workers are gone; at once where `any_worker` will do."""

    @contextlib.asynccontextmanager
    async def fresh() -> AsyncIterator[str]:
        if not any_worker:
            async with AsyncClient(address, api_key=api_key) as client:
                await wait_until_cold(client, idle_seconds)
        yield address

    return fresh


def write(report: dict[str, Any], folder: Path) -> list[Path]:
    """report.json, report.md and the plots. Raises OSError."""
    from darkroom.bench.plots import write_plots

    folder.mkdir(parents=True, exist_ok=True)
    data, table = folder / "report.json", folder / "report.md"
    data.write_text(json.dumps(report, indent=1, ensure_ascii=False) + "\n", "utf-8")
    table.write_text(markdown(report), "utf-8")
    return [data, table, *write_plots(report, folder)]
