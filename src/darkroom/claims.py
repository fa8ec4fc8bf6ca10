"""Who makes a result: claims in the store, by which workers that meet one idempotency key agree on one of them.

A claim is a small file that only the first can write (`Store.put_new`) and that holds for `LEASE_SECONDS`; its owner
renews it while the job runs. One that has run out, or was given up, is never removed: the next claim has the next
number. So of several workers that find a dead one's claim, too, exactly one goes on.
"""

from __future__ import annotations

import json
import logging
import secrets
import threading
import time
from dataclasses import asdict, dataclass, field, replace

from darkroom.errors import DarkroomError, InvalidInput
from darkroom.storage import MissingKey, NoConditionalWrites, Store

log = logging.getLogger(__name__)

LEASE_SECONDS = 60.0
"""For so long a dead worker's key is held. By the clocks of the workers, which may differ by less than this."""
RENEW_SECONDS = 15.0
GIVEN_UP = 0.0


@dataclass(frozen=True)
class Holder:
    """What a claim says. until: seconds since the epoch, `GIVEN_UP` where the key is free again."""

    worker: str
    job_id: str
    request_sha256: str
    until: float


@dataclass
class Claim:
    """A key that this worker holds. `store` is None where the store cannot tell workers apart: then nobody waits.

    first: nobody has held the key before.
    """

    name: str
    holder: Holder
    store: Store | None
    first: bool = True
    _given_up: bool = field(default=False, init=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, init=False, repr=False)

    def renew(self) -> None:
        """Hold the key for another lease. A store that does not take that is tried again with the next."""
        with self._lock:
            if not self._given_up:
                self._write(time.time() + LEASE_SECONDS)

    def give_up(self) -> None:
        """Let others try. Where the store does not take that, the lease ends it."""
        with self._lock:
            self._given_up = True
            self._write(GIVEN_UP)

    def _write(self, until: float) -> None:
        if self.store is None:
            return
        try:
            self.store.put(self.name, _content(replace(self.holder, until=until)), "application/json")
        except DarkroomError as error:
            log.warning("job %s: its claim could not be written: %s", self.holder.job_id, error.message)


class Claims:
    """The claims of one worker. Safe to use from several threads; this worker's own jobs must not share a key."""

    def __init__(self) -> None:
        self._worker = secrets.token_hex(8)
        self._told = False

    def take(self, store: Store, key: str, job_id: str, request_sha256: str) -> Claim | None:
        """Hold `key` for a job; None while another worker does.

        What this worker held for an earlier job, and what another held for the very same job, is taken over: an
        endpoint hands a job out again when it has given up the worker that had it.

        Raises InvalidInput where the key is held for another request, UploadFailed, FetchFailed.
        """
        number = 0
        while True:
            mine = Holder(self._worker, job_id, request_sha256, time.time() + LEASE_SECONDS)
            name = f"idempotency/{key}.{number}.claim"
            try:
                if store.put_new(name, _content(mine), "application/json"):
                    return Claim(name, mine, store, first=number == 0)
            except NoConditionalWrites as error:
                self._tell(error)
                return Claim(name, mine, None)
            holder = _read(store, name)
            if holder is None:
                return None  # another worker is writing it at this moment
            if self._holds(holder, mine):
                return None
            number += 1

    def _holds(self, holder: Holder, mine: Holder) -> bool:
        """Whether another worker is at work on the key."""
        if holder.until < time.time() or holder.worker == mine.worker or holder.job_id == mine.job_id:
            return False
        if holder.request_sha256 != mine.request_sha256:
            raise InvalidInput(
                "idempotency_key is in use by a running job with another request; take a new key",
                field="idempotency_key",
            )
        return True

    def _tell(self, error: NoConditionalWrites) -> None:
        if not self._told:
            self._told = True
            log.warning("two workers that meet an idempotency key at the same moment can both run it: %s", error)


def _content(holder: Holder) -> bytes:
    return json.dumps(asdict(holder)).encode()


def _read(store: Store, name: str) -> Holder | None:
    """None where there is none. One that cannot be read holds nothing."""
    try:
        return Holder(**json.loads(store.get(name)))
    except MissingKey:
        return None
    except (ValueError, TypeError):
        return Holder("", "", "", GIVEN_UP)
