"""Calls of clients' webhooks: the body of /status, until one is answered with 2xx or the attempts are used up."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from darkroom.local.config import EndpointConfig
from darkroom.local.dispatch import Dispatch, first_of
from darkroom.local.job import Job, status_body

if TYPE_CHECKING:
    import httpx

log = logging.getLogger(__name__)
LOOK_SECONDS = 0.5
AT_ONCE = 8


async def call_webhooks(config: EndpointConfig, dispatch: Dispatch) -> None:
    """Run until the endpoint closes. What is due is on disk: calls that a restart interrupts are made again."""
    while not dispatch.closing.is_set():
        dispatch.webhook_due.clear()
        if due := dispatch.queue.due_webhooks():
            await _call_all(due, config, dispatch)
        await first_of(LOOK_SECONDS, dispatch.webhook_due, dispatch.closing)


async def _call_all(due: list[Job], config: EndpointConfig, dispatch: Dispatch) -> None:
    # Most endpoints never see a webhook, and httpx is a fifth of an endpoint's start.
    import httpx

    async with httpx.AsyncClient(timeout=config.limits.webhook_timeout_seconds) as http:
        for start in range(0, len(due), AT_ONCE):
            await asyncio.gather(*(_call(http, job, config, dispatch) for job in due[start:start + AT_ONCE]))


async def _call(http: httpx.AsyncClient, job: Job, config: EndpointConfig, dispatch: Dispatch) -> None:
    import httpx

    assert job.webhook is not None
    try:
        reply = await http.post(job.webhook, content=status_body(job), headers={"Content-Type": "application/json"})
        accepted, said = reply.is_success, f"HTTP {reply.status_code}"
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        accepted, said = False, type(error).__name__
    limits = config.limits
    if not accepted:
        log.warning("webhook of %s: %s (call %d of %d)", job.id, said, job.webhook_tries + 1, limits.webhook_attempts)
    dispatch.queue.webhook_answered(
        job, accepted=accepted, attempts=limits.webhook_attempts, delay=limits.webhook_delay_seconds)
