"""Files that leave while their job goes on, and the state by which another worker takes the job over.

`state.json` in the job's folder lists, in order, every file stored so far with its line in the manifest and the
recipe's record of it. It is written after each file, so that what it names is there; whoever finds it goes on after
the last. Files are stored one after the other on a thread of their own; at most WAITING wait for it, so that neither
a slow store nor a long job fills the memory.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from darkroom.artifacts import Artifact
from darkroom.storage import MissingKey, Store
from darkroom.workers.recipe import Stored, Streamed

STATE = "state.json"
FORMAT = 1
WAITING = 4
TOLD_KEYS = 100

Announce = Callable[[dict[str, Any]], None]
"""Hears the manifest line of a file once it is stored, on the stream's thread."""


class Stream:
    """One job's files on their way into the store. `put` and `finish` raise what storing raised."""

    def __init__(self, store: Store, folder: str, request_hash: str, announce: Announce | None = None) -> None:
        self._store, self._folder, self._request_hash = store, folder, request_hash
        self._announce = announce or (lambda entry: None)
        self._stored: list[Stored] = []
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="stream")
        self._slots = threading.Semaphore(WAITING)
        self._failure: BaseException | None = None

    def earlier(self) -> list[Stored]:
        """What an earlier try of this very request has stored, in order. Raises FetchFailed."""
        try:
            state = json.loads(self._store.get(f"{self._folder}/{STATE}"))
            if (state["format"], state["request_sha256"]) == (FORMAT, self._request_hash):
                self._stored = [Stored(**line) for line in state["stored"]]
        except (MissingKey, ValueError, KeyError, TypeError):
            # Nothing there, or nothing of ours: the job begins at its beginning.
            self._stored = []
        return list(self._stored)

    def read(self, name: str) -> bytes:
        """A stored file's bytes. Raises MissingKey, FetchFailed."""
        return self._store.get(f"{self._folder}/{name}")

    def put(self, file: Streamed) -> None:
        """Take a file; returns before it is stored. One that has the name of an earlier try's file replaces it and
        all that came after it.
        """
        self._slots.acquire()
        if self._failure is not None:
            self._slots.release()
            raise self._failure
        self._pool.submit(self._work, file).add_done_callback(self._done)

    def finish(self) -> list[dict[str, Any]]:
        """Wait until everything is stored; the manifest lines in order."""
        self.close()
        if self._failure is not None:
            raise self._failure
        return [stored.entry for stored in self._stored]

    def close(self) -> None:
        """Wait for what is on its way, without judging it."""
        self._pool.shutdown(wait=True)

    def told(self) -> dict[str, Any]:
        """What a failure says of the files that are kept."""
        keys = [self._store.place(f"{self._folder}/{stored.entry['name']}") for stored in self._stored]
        return {"stored": {"files": len(keys), "keys": keys[:TOLD_KEYS]}} if keys else {}

    def _done(self, work: Future[None]) -> None:
        error = work.exception()
        if error is not None and self._failure is None:
            self._failure = error
        self._slots.release()

    def _work(self, file: Streamed) -> None:
        if self._failure is not None:
            return
        artifact = file.encode()
        self._store.put(f"{self._folder}/{artifact.name}", artifact.data, artifact.media_type)
        stored = [*self._before(artifact), Stored(artifact.entry(), dict(file.record))]
        self._write_state(stored)
        self._stored = stored
        self._announce(artifact.entry())

    def _before(self, artifact: Artifact) -> list[Stored]:
        names = [stored.entry["name"] for stored in self._stored]
        return self._stored[: names.index(artifact.name)] if artifact.name in names else self._stored

    def _write_state(self, stored: list[Stored]) -> None:
        state = {
            "format": FORMAT,
            "request_sha256": self._request_hash,
            "stored": [vars(line) for line in stored],
        }
        self._store.put(f"{self._folder}/{STATE}", json.dumps(state).encode(), "application/json")
