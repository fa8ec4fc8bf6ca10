"""Calls of clients' webhooks: the body of /status, until one is answered with 2xx or the attempts are used up."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from darkroom.local.config import EndpointConfig
from darkroom.local.dispatch import Dispatch, first_of
from darkroom.local.job import status_body

if TYPE_CHECKING:
    import httpx

log = logging.getLogger(__name__)
LOOK_SECONDS = 0.5
AT_ONCE = 16
"""Calls under way; each holds a result of megabytes."""
AT_ONE_RECEIVER = 4
"""So many of them to one host and port: one that does not answer must not delay the others'."""


async def call_webhooks(config: EndpointConfig, dispatch: Dispatch) -> None:
    """Run until the endpoint closes. What is due is on disk: calls that a restart interrupts are made again."""
    calls: dict[str, asyncio.Task[None]] = {}
    http: httpx.AsyncClient | None = None
    try:
        while not dispatch.closing.is_set():
            dispatch.webhook_due.clear()
            for job in [job for job, call in calls.items() if call.done()]:
                calls.pop(job).result()  # a queue that cannot be written must not go unseen
            for job in dispatch.queue.due_webhooks(AT_ONCE, AT_ONE_RECEIVER):
                if job not in calls and len(calls) < AT_ONCE:
                    http = http or _client(config)
                    calls[job] = asyncio.create_task(_call(http, job, config, dispatch))
                    calls[job].add_done_callback(lambda _: dispatch.webhook_due.set())
            await first_of(LOOK_SECONDS, dispatch.webhook_due, dispatch.closing)
    finally:
        for call in calls.values():
            call.cancel()
        await asyncio.gather(*calls.values(), return_exceptions=True)
        if http is not None:
            await http.aclose()


def _client(config: EndpointConfig) -> httpx.AsyncClient:
    # Most endpoints never see a webhook, and httpx is a fifth of an endpoint's start.
    import httpx

    # No connection is kept: one that its receiver has just closed would cost a call.
    return httpx.AsyncClient(timeout=config.limits.webhook_timeout_seconds,
                             limits=httpx.Limits(max_keepalive_connections=0))


async def _call(http: httpx.AsyncClient, id: str, config: EndpointConfig, dispatch: Dispatch) -> None:
    import httpx

    job = dispatch.queue.due_webhook(id)  # only now: a result may be megabytes, and retried since it was found due
    if job is None or job.webhook is None:
        return
    limits = config.limits
    sent = http.stream("POST", job.webhook, content=status_body(job), headers={"Content-Type": "application/json"})
    try:
        # In all: httpx counts from byte to byte. Nobody reads what the receiver says beyond its status.
        async with asyncio.timeout(limits.webhook_timeout_seconds), sent as reply:
            accepted, said = reply.is_success, f"HTTP {reply.status_code}"
    except (httpx.HTTPError, httpx.InvalidURL, TimeoutError, ValueError) as error:
        accepted, said = False, type(error).__name__
    if not accepted:
        log.warning("webhook of %s: %s (call %d of %d)", job.id, said, job.webhook_tries + 1, limits.webhook_attempts)
    dispatch.queue.webhook_answered(
        job, accepted=accepted, attempts=limits.webhook_attempts, delay=limits.webhook_delay_seconds)
