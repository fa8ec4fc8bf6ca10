"""Claims: of any number of workers that meet one key, one holds it; what a dead one held is free after its lease."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from threading import Barrier

import pytest

from darkroom import claims
from darkroom.claims import Claim, Claims
from darkroom.errors import InvalidInput
from darkroom.storage import FolderStore, NoConditionalWrites, S3Store, Store
from tests.fakes import conditional_s3
from tests.fakes.conditional_s3 import Conditional
from tests.fakes.s3 import S3Server

WORKERS = 8


def bucket(server: S3Server, prefix: str) -> S3Store:
    return S3Store(
        bucket=server.bucket,
        prefix=prefix,
        endpoint_url=server.endpoint_url,
        access_key=server.access_key,
        secret=server.secret,
        attempts=2,
        timeout_seconds=5.0,
    )


@pytest.fixture
def conditional(s3_server: S3Server) -> Iterator[Conditional]:
    with conditional_s3.serve(s3_server) as server:
        yield server


@pytest.fixture(params=["folder", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    if request.param == "folder":
        return FolderStore(tmp_path / "results")
    return bucket(request.getfixturevalue("conditional").server, tmp_path.name)


def taken(store: Store, worker: Claims, job_id: str = "job", request: str = "request") -> Claim | None:
    return worker.take(store, "key", job_id, request)


# -- conditional writes -------------------------------------------------------------------------


def test_of_many_writers_at_once_one_stores(store: Store) -> None:
    assert store.put_new("before", b"the first conditional write of a store", "text/plain")
    ready = Barrier(WORKERS)

    def write(number: int) -> bool:
        ready.wait()
        return store.put_new("a/b.json", b"%d" % number, "application/json")

    with ThreadPoolExecutor(WORKERS) as pool:
        stored = list(pool.map(write, range(WORKERS)))
    assert stored.count(True) == 1
    assert store.get("a/b.json") == b"%d" % stored.index(True)
    assert store.keys("a") == ["a/b.json"]


def test_a_server_that_takes_no_notice_of_the_condition_is_found_out(s3_server: S3Server, tmp_path: Path) -> None:
    store = bucket(s3_server, tmp_path.name)
    for _ in range(2):
        with pytest.raises(NoConditionalWrites):
            store.put_new("a.json", b"1", "application/json")


@pytest.mark.parametrize("refusal", [(501, "NotImplemented"), (400, "InvalidArgument")])
def test_a_server_that_refuses_the_condition_is_found_out_and_asked_once(
    conditional: Conditional, tmp_path: Path, refusal: tuple[int, str]
) -> None:
    conditional.refuses, store = refusal, bucket(conditional.server, tmp_path.name)
    for _ in range(2):
        with pytest.raises(NoConditionalWrites):
            store.put_new("a.json", b"1", "application/json")
    assert len(conditional.asked) == 1


def test_a_claim_is_one_request_once_the_server_is_known(conditional: Conditional, tmp_path: Path) -> None:
    store, worker = bucket(conditional.server, tmp_path.name), Claims()
    worker.take(store, "first", "job-1", "request")
    assert len(conditional.asked) == 2
    worker.take(store, "second", "job-2", "request")
    assert conditional.asked[2:] == [("PUT", f"/{store.bucket}/{tmp_path.name}/idempotency/second.0.claim")]


# -- claims -------------------------------------------------------------------------------------


def test_of_many_workers_one_holds_the_key(store: Store) -> None:
    ready = Barrier(WORKERS)

    def take(number: int) -> Claim | None:
        ready.wait()
        return taken(store, Claims(), f"job-{number}")

    with ThreadPoolExecutor(WORKERS) as pool:
        held = [claim for claim in pool.map(take, range(WORKERS)) if claim]
    assert len(held) == 1
    assert held[0].first


def test_a_key_that_was_given_up_is_taken_by_one_of_many(store: Store) -> None:
    first = taken(store, Claims(), "job-0")
    assert first is not None
    first.give_up()
    ready = Barrier(WORKERS)

    def take(number: int) -> Claim | None:
        ready.wait()
        return taken(store, Claims(), f"job-{number + 1}")

    with ThreadPoolExecutor(WORKERS) as pool:
        held = [claim for claim in pool.map(take, range(WORKERS)) if claim]
    assert len(held) == 1
    assert not held[0].first


DYING = """
import os, signal, sys
from pathlib import Path
from darkroom.claims import Claims
from darkroom.storage import FolderStore

assert Claims().take(FolderStore(Path(sys.argv[1])), "key", "job-1", "request")
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_dead_workers_key_is_free_after_its_lease_and_not_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    killed = subprocess.run([sys.executable, "-c", DYING, str(tmp_path)], check=False)
    assert killed.returncode == -signal.SIGKILL
    store, now = FolderStore(tmp_path), time.time()
    assert taken(store, Claims(), "job-2") is None
    monkeypatch.setattr(claims.time, "time", lambda: now + claims.LEASE_SECONDS + 1)
    assert taken(store, Claims(), "job-2") is not None
    assert taken(store, Claims(), "job-3") is None


def test_a_claim_that_is_renewed_goes_on_holding_and_one_given_up_is_not_renewed(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    now, held = time.time(), taken(store, Claims(), "job-1")
    assert held is not None
    monkeypatch.setattr(claims.time, "time", lambda: now + claims.RENEW_SECONDS)
    held.renew()
    monkeypatch.setattr(claims.time, "time", lambda: now + claims.LEASE_SECONDS + 1)
    assert taken(store, Claims(), "job-2") is None
    held.give_up()
    held.renew()
    assert taken(store, Claims(), "job-2") is not None


def test_a_worker_that_was_thought_dead_finds_its_key_taken_and_holds_nobody_up(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    now, asleep, other = time.time(), taken(store, Claims(), "job-1"), Claims()
    assert asleep is not None
    assert asleep.held()
    monkeypatch.setattr(claims.time, "time", lambda: now + claims.LEASE_SECONDS + 1)
    assert asleep.held(), "nobody has come"
    going_on = taken(store, other, "job-2")
    assert going_on is not None
    assert not asleep.held()
    assert not asleep.renew()
    going_on.give_up()
    assert taken(store, Claims(), "job-3")


def test_a_job_that_was_handed_out_again_is_not_taken_back(store: Store) -> None:
    first, second = Claims(), Claims()
    lost = taken(store, first, "job-1")
    assert lost is not None
    assert taken(store, second, "job-1")
    assert not lost.renew()
    assert first.take(store, "key", "job-1", "request", handed_out_again=False) is None


def test_a_key_is_lost_within_its_lease_where_the_job_was_handed_out_again(store: Store) -> None:
    claim = taken(store, Claims(), "job-1")
    assert claim is not None
    assert claim.held()
    assert taken(store, Claims(), "job-1")
    assert not claim.held()


def test_a_store_that_is_down_takes_no_key_away(
    conditional: Conditional, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, now = bucket(conditional.server, tmp_path.name), time.time()
    claim = taken(store, Claims())
    assert claim is not None
    claim.store = bucket(replace(conditional.server, endpoint_url="http://127.0.0.1:9"), tmp_path.name)
    monkeypatch.setattr(claims.time, "time", lambda: now + claims.LEASE_SECONDS + 1)
    assert claim.held()
    assert claim.renew()


def test_a_job_that_is_handed_out_again_does_not_wait_for_the_worker_that_lost_it(store: Store) -> None:
    assert taken(store, Claims(), "job-1")
    assert taken(store, Claims(), "job-1")


def test_a_worker_does_not_wait_for_itself(store: Store) -> None:
    worker = Claims()
    assert taken(store, worker, "job-1")
    assert taken(store, worker, "job-2")


def test_another_request_under_a_held_key_is_refused(store: Store) -> None:
    assert taken(store, Claims(), "job-1")
    with pytest.raises(InvalidInput, match="in use by a running job") as refused:
        taken(store, Claims(), "job-2", "another request")
    assert refused.value.field == "idempotency_key"


def test_a_claim_that_cannot_be_read_holds_nothing(store: Store) -> None:
    store.put("idempotency/key.0.claim", b'{"worker": "a", "jo', "application/json")
    assert taken(store, Claims())


def test_a_store_without_conditions_gives_every_worker_the_key_and_that_is_said_once(
    s3_server: S3Server, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store, worker, other = bucket(s3_server, tmp_path.name), Claims(), Claims()
    for key in ("a", "b"):
        claim = worker.take(store, key, "job", "request")
        assert claim is not None
        claim.renew()
        claim.give_up()
        assert other.take(store, key, "another", "request") is not None
    assert sum("at the same moment" in record.message for record in caplog.records) == 2
