"""Who makes a result: claims in the store, by which workers that meet one idempotency key agree on one of them.

A claim is a small file that only the first can write (`Store.put_new`) and that holds for `LEASE_SECONDS`; its owner
renews it while the job runs. One that has run out, or was given up, is never removed: the next claim has the next
number. So of several workers that find a dead one's claim, too, exactly one goes on; and a worker that was only thought
dead (it slept, or did not reach the store) finds the next number taken, and stops.
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
"""For so long a dead worker's key is held, by the clocks of the workers."""
RENEW_SECONDS = 15.0
"""Clocks that differ by more than the lease less this let a key be taken from a worker that is alive: work is lost."""
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
    """A key that this worker holds, as the `number`th. `store` is None where the store cannot tell workers apart: then
    nobody waits. Safe to use from several threads.
    """

    key: str
    number: int
    holder: Holder
    store: Store | None
    _given_up: bool = field(default=False, init=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, init=False, repr=False)

    @property
    def first(self) -> bool:
        """Nobody has held the key before."""
        return self.number == 0

    def renew(self) -> bool:
        """Hold the key for another lease, and say whether it is still held: False once the next claim is another's.

        A store that does not answer is tried again with the next.
        """
        with self._lock:
            if self.store is None or self._given_up:
                return True
            try:
                if self.store.exists(_name(self.key, self.number + 1)):
                    return False
                self._write(self.store, time.time() + LEASE_SECONDS)
            except DarkroomError as error:
                log.warning("job %s: its claim could not be renewed: %s", self.holder.job_id, error.message)
            return True

    def held(self) -> bool:
        """Whether nobody else has taken the key: whoever is handed the same job again does, also within the lease."""
        with self._lock:
            if self.store is None:
                return True
            try:
                return not self.store.exists(_name(self.key, self.number + 1))
            except DarkroomError:  # what is made is not thrown away for want of an answer
                return True

    def give_up(self) -> None:
        """Let others try. Where the store does not take that, the lease ends it."""
        with self._lock:
            self._given_up = True
            if self.store is None:
                return
            try:
                self._write(self.store, GIVEN_UP)
            except DarkroomError as error:
                log.warning("job %s: its claim could not be given up: %s", self.holder.job_id, error.message)

    def _write(self, store: Store, until: float) -> None:
        renewed = replace(self.holder, until=until)
        store.put(_name(self.key, self.number), _content(renewed), "application/json")
        self.holder = renewed


class Claims:
    """The claims of one worker. Safe to use from several threads; this worker's own jobs must not share a key."""

    def __init__(self) -> None:
        self._worker = secrets.token_hex(8)
        self._told = False

    def take(
        self, store: Store, key: str, job_id: str, request_sha256: str, handed_out_again: bool = True
    ) -> Claim | None:
        """Hold `key` for a job; None while another worker does.

        What this worker held for an earlier job is taken over, and so is what another held for the very same job: an
        endpoint hands a job out again when it has given up the worker that had it. handed_out_again: False for the
        worker that was given up, which must not take it back.

        Raises InvalidInput where the key is held for another request, UploadFailed, FetchFailed.
        """
        number = 0
        while True:
            mine = Holder(self._worker, job_id, request_sha256, time.time() + LEASE_SECONDS)
            try:
                if store.put_new(_name(key, number), _content(mine), "application/json"):
                    return Claim(key, number, mine, store)
            except NoConditionalWrites as error:
                self._tell(error)
                return Claim(key, number, mine, None)
            holder = _read(store, _name(key, number))
            if holder is None:
                return None  # another worker is writing it at this moment
            same_job = handed_out_again and holder.job_id == mine.job_id
            if not same_job and self._holds(holder, mine):
                return None
            number += 1

    def _holds(self, holder: Holder, mine: Holder) -> bool:
        """Whether another worker is at work on the key."""
        if holder.until < time.time() or holder.worker == mine.worker:
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


def _name(key: str, number: int) -> str:
    return f"idempotency/{key}.{number}.claim"


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
