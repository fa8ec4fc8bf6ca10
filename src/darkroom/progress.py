"""Progress towards the caller: throttled, in order, and never after the final result."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable
from typing import Any

Send = Callable[[dict[str, Any]], Awaitable[None]]

log = logging.getLogger(__name__)

POST_SECONDS = 5.0
"""A control plane that does not take an update within this time misses it; the job is not held up for it."""


class ProgressFeed:
    """Sends the newest update at most every `interval` seconds, one post at a time.

    The SDK's own `progress_update` posts from a thread of its own per update, so that updates can overtake each
    other and the result; here every post is awaited, and `close` returns only when none is on its way.
    """

    def __init__(self, send: Send | None, interval: float) -> None:
        self._send, self._interval = send, interval
        self._latest: dict[str, Any] | None = None
        self._kept: dict[str, Any] = {}
        self._news = asyncio.Event()
        self._closing = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._task = asyncio.create_task(self._pump(send)) if send else None

    def update(self, payload: dict[str, Any]) -> None:
        """Replace what will be sent next; may be called from any thread."""
        if self._send is not None:
            self._loop.call_soon_threadsafe(self._set, payload)

    def keep(self, fields: dict[str, Any]) -> None:
        """Say these fields with every update from now on; may be called from any thread."""
        if self._send is not None:
            self._loop.call_soon_threadsafe(self._kept.update, fields)

    async def close(self) -> None:
        """Drop what has not been sent and wait for the post on its way: none may follow the result."""
        self._closing.set()
        self._news.set()
        if self._task is not None:
            await self._task

    async def abandon(self) -> None:
        """Drop the post on its way too: a cancelled job has no result that it could overtake."""
        # Not by cancelling alone: wait_for (before Python 3.12) swallows a cancellation that comes as its work ends.
        self._closing.set()
        self._news.set()
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])

    def _set(self, payload: dict[str, Any]) -> None:
        self._latest = {**payload, **self._kept}
        self._news.set()

    async def _pump(self, send: Send) -> None:
        while True:
            await self._news.wait()
            self._news.clear()
            if self._closing.is_set():
                return
            payload, self._latest = self._latest, None
            if payload is not None:
                await post(send, payload)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._closing.wait(), self._interval)


async def post(send: Send, payload: dict[str, Any]) -> None:
    """Send one update, and be done with it where it is not taken."""
    try:
        await asyncio.wait_for(send(payload), POST_SECONDS)
    except Exception as error:  # whatever the control plane or the SDK do: no update is worth a job
        log.warning("a progress update was not taken: %s", type(error).__name__)
