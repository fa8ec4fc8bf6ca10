"""A job's own folder on this machine, in which io threads work that no cancel can stop."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from pathlib import Path
from threading import Thread
from types import TracebackType
from typing import Any, TypeVar

T = TypeVar("T")


class Scratch:
    """The folder lasts as long as the `with` block, and until the last thread that works in it has ended.

    Nobody waits for such a thread: a cancelled job is answered at once, and its download goes on until its own limit.
    """

    def __init__(self, pool: ThreadPoolExecutor) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="darkroom-"))
        self._pool = pool
        self._working = list[Future[Any]]()

    async def work(self, function: Callable[[], T]) -> T:
        """`function` on the pool."""
        working = self._pool.submit(function)
        self._working.append(working)
        return await asyncio.wrap_future(working)

    def __enter__(self) -> Scratch:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if all(working.done() for working in self._working):
            self._remove()
        else:
            # No daemon: a worker that ends waits for its pools' threads anyway, and the folder has to go after them.
            Thread(target=self._remove, name="scratch").start()

    def _remove(self) -> None:
        wait(self._working)
        shutil.rmtree(self.folder, ignore_errors=True)
