"""Batches: what they leave behind, and that no interruption loses a result or pays for one twice."""

import asyncio
import csv
import errno
import hashlib
import json
import re
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from darkroom.client import AsyncClient, EndpointUnreachable
from darkroom.client.batch import Batch, Entry, Ledger, LedgerBusy, LedgerMismatch, Planned, Summary, read_plan
from darkroom.client.batch.report import write_reports
from darkroom.client.batch.sheet import write_sheet
from darkroom.client.download import write_atomically
from tests.client.conftest import EAGER, IMPATIENT
from tests.client.fake_endpoint import FakeEndpoint, FakeServer, picture


def listed(folder: Path, prompts: list[str]) -> Path:
    """A CSV with one picture for each prompt."""
    path = folder / "jobs.csv"
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["image", "prompt"])
        for number, prompt in enumerate(prompts):
            (folder / f"p{number}.png").write_bytes(picture(str(number)))
            writer.writerow([f"p{number}.png", prompt])
    return path


def run(path: Path, out: Path, url: str, **options: Any) -> tuple[Summary, list[Entry], list[Planned]]:
    async def go() -> tuple[Summary, list[Entry], list[Planned]]:
        plan = read_plan(path, {})
        ledger = Ledger(out / "ledger.sqlite")
        try:
            async with AsyncClient(url, retry=IMPATIENT, polling=EAGER) as client:
                batch = Batch(plan, ledger, client, out, retry=IMPATIENT, **options)
                return await batch.run(), batch.entries, plan
        finally:
            ledger.close()

    return asyncio.run(go())


def test_every_job_ends_with_a_verified_file(endpoint: FakeEndpoint, tmp_path: Path) -> None:
    summary, entries, _ = run(listed(tmp_path, ["x"] * 8), tmp_path / "out", endpoint.url, in_flight=3)

    assert (summary.done, summary.failed, endpoint.paid) == (8, 0, 8)
    assert summary.usd == pytest.approx(8 * 0.04 * 0.00019)
    for entry in entries:
        data = (tmp_path / "out" / entry.files[0]["file"]).read_bytes()
        assert hashlib.sha256(data).hexdigest() == entry.files[0]["sha256"]
        assert data == picture(entry.key)
    assert len({entry.files[0]["file"] for entry in entries}) == 8


def test_no_more_jobs_are_in_flight_than_asked_for(server: FakeServer, tmp_path: Path) -> None:
    with server.serving(FakeEndpoint(job_seconds=0.05)) as fake:
        run(listed(tmp_path, ["x"] * 9), tmp_path / "out", fake.url, in_flight=3)
        assert fake.busiest == 3


def test_a_finished_batch_run_again_sends_nothing(endpoint: FakeEndpoint, tmp_path: Path) -> None:
    path = listed(tmp_path, ["x"] * 3)
    run(path, tmp_path / "out", endpoint.url)
    calls = endpoint.calls["run"]
    heard: list[str] = []
    summary, _, _ = run(path, tmp_path / "out", endpoint.url, listen=lambda planned, entry: heard.append(entry.state))
    assert (endpoint.calls["run"], summary.done, heard) == (calls, 3, ["done"] * 3)


def test_only_new_rows_of_a_list_are_paid(endpoint: FakeEndpoint, tmp_path: Path) -> None:
    run(listed(tmp_path, ["x", "y"]), tmp_path / "out", endpoint.url)
    summary, _, _ = run(listed(tmp_path, ["x", "y", "z"]), tmp_path / "out", endpoint.url)
    assert (summary.done, endpoint.paid) == (3, 3)


def test_a_file_that_was_lost_or_changed_is_fetched_again_not_paid_again(
    endpoint: FakeEndpoint, tmp_path: Path
) -> None:
    path, out = listed(tmp_path, ["x", "y"]), tmp_path / "out"
    _, entries, _ = run(path, out, endpoint.url)
    (out / entries[0].files[0]["file"]).unlink()
    (out / entries[1].files[0]["file"]).write_bytes(b"spoiled")

    _, entries, _ = run(path, out, endpoint.url)

    assert [(out / entry.files[0]["file"]).read_bytes() for entry in entries] == [picture(e.key) for e in entries]
    assert (endpoint.paid, endpoint.calls["run"]) == (2, 2)


def test_each_kind_of_trouble_ends_as_it_should(endpoint: FakeEndpoint, tmp_path: Path) -> None:
    prompts = ["x", "flaky 2", "fail DECODE_FAILED", "fail FETCH_FAILED", "forgotten", "damaged", "wrong", "expired"]
    endpoint.script("run", "lost", "429:0.05", "500")
    endpoint.script("status", "lost", "502")

    summary, entries, plan = run(listed(tmp_path, prompts), tmp_path / "out", endpoint.url, in_flight=4)

    states = dict(zip(prompts, [entry.state for entry in entries], strict=True))
    failed = {"fail DECODE_FAILED", "fail FETCH_FAILED", "wrong"}
    assert states == {prompt: "failed" if prompt in failed else "done" for prompt in prompts}
    assert set(endpoint.charges.values()) == {1}
    write_reports(plan, entries, tmp_path / "out")
    rows = list(csv.DictReader((tmp_path / "out" / "errors.csv").read_text().splitlines()))
    assert [(row["where"], row["code"], row["retryable"]) for row in rows] == [
        ("jobs.csv line 4", "DECODE_FAILED", "False"),
        ("jobs.csv line 5", "FETCH_FAILED", "True"),
        ("jobs.csv line 8", "ChecksumMismatch", "True"),
    ]
    lines = (tmp_path / "out" / "results.jsonl").read_text().splitlines()
    assert [json.loads(line)["position"] for line in lines] == [1, 2, 5, 6, 8]
    assert summary.failed == 3


def test_what_may_succeed_is_tried_again_by_the_next_run_and_the_rest_only_when_asked(
    endpoint: FakeEndpoint, tmp_path: Path
) -> None:
    path, out = listed(tmp_path, ["fail DECODE_FAILED", "flaky 4"]), tmp_path / "out"
    _, entries, _ = run(path, out, endpoint.url)
    assert [entry.state for entry in entries] == ["failed", "failed"]

    _, entries, _ = run(path, out, endpoint.url)
    assert [entry.state for entry in entries] == ["failed", "done"]
    jobs = len(endpoint.jobs)

    run(path, out, endpoint.url)
    assert len(endpoint.jobs) == jobs
    run(path, out, endpoint.url, retry_failed=True)
    assert len(endpoint.jobs) == jobs + 1


def test_a_reply_that_came_as_data_is_a_file_and_not_in_the_ledger(endpoint: FakeEndpoint, tmp_path: Path) -> None:
    path = tmp_path / "jobs.jsonl"
    (tmp_path / "a.png").write_bytes(picture("a"))
    path.write_text('{"image": "a.png", "prompt": "x", "delivery": "base64"}')
    _, entries, _ = run(path, tmp_path / "out", endpoint.url)
    assert (tmp_path / "out" / entries[0].files[0]["file"]).read_bytes() == picture(entries[0].key)
    assert "data:" not in json.dumps(entries[0].reply)


def test_a_picture_that_vanishes_after_planning_fails_alone(endpoint: FakeEndpoint, tmp_path: Path) -> None:
    path = listed(tmp_path, ["x", "y"])

    def vanish(planned: Planned, entry: Entry) -> None:
        (tmp_path / "p1.png").unlink(missing_ok=True)

    _, entries, _ = run(path, tmp_path / "out", endpoint.url, in_flight=1, listen=vanish)
    assert [entry.state for entry in entries] == ["done", "failed"]


def test_an_endpoint_that_goes_away_stops_the_batch_and_keeps_what_was_reached(
    server: FakeServer, tmp_path: Path
) -> None:
    path, out = listed(tmp_path, ["x"] * 6), tmp_path / "out"
    with server.serving(FakeEndpoint(job_seconds=0.02)) as fake:
        done = 0

        def listen(planned: Planned, entry: Entry) -> None:
            nonlocal done
            done += 1
            if done == 3:
                fake.script("run", *["503"] * 100)
                fake.script("status", *["503"] * 100)

        with pytest.raises(EndpointUnreachable):
            run(path, out, fake.url, in_flight=2, listen=listen)
        fake._scripts.clear()
        summary, _, _ = run(path, out, fake.url)
        assert (summary.done, fake.paid) == (6, 6)


def test_a_job_that_is_lost_again_and_again_fails_after_its_attempts(endpoint: FakeEndpoint, tmp_path: Path) -> None:
    path, out = listed(tmp_path, ["x"]), tmp_path / "out"
    endpoint.script("status", *["404"] * 100)
    started = time.monotonic()
    summary, entries, _ = run(path, out, endpoint.url)
    assert (summary.failed, len(endpoint.jobs)) == (1, IMPATIENT.job_attempts)
    assert time.monotonic() - started >= 2 * 0.5 * IMPATIENT.base_seconds
    assert entries[0].error is not None
    assert (entries[0].error["code"], entries[0].error["retryable"]) == ("JOB_LOST", True)

    endpoint._scripts.clear()
    summary, _, _ = run(path, out, endpoint.url)
    assert (summary.done, endpoint.paid) == (1, 1)


def test_a_lost_file_whose_bytes_came_in_the_reply_is_replayed_not_paid_again(
    endpoint: FakeEndpoint, tmp_path: Path
) -> None:
    path, out = tmp_path / "jobs.jsonl", tmp_path / "out"
    (tmp_path / "a.png").write_bytes(picture("a"))
    path.write_text('{"image": "a.png", "prompt": "x", "delivery": "base64"}')
    _, (before,), _ = run(path, out, endpoint.url)
    (out / before.files[0]["file"]).unlink()

    summary, (after,), _ = run(path, out, endpoint.url)

    assert (summary.done, after.key, endpoint.paid) == (1, before.key, 1)
    assert (out / after.files[0]["file"]).read_bytes() == picture(before.key)


@pytest.mark.parametrize("full_for", [1, 1000])
def test_a_full_disk_never_ends_a_paid_job(
    endpoint: FakeEndpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, full_for: int
) -> None:
    path, out = listed(tmp_path, ["x"]), tmp_path / "out"
    failures = iter(range(full_for))

    def write(target: Path, data: bytes) -> None:
        if next(failures, None) is not None:
            raise OSError(errno.ENOSPC, "No space left on device")
        write_atomically(target, data)

    monkeypatch.setattr("darkroom.client.download.write_atomically", write)
    summary, (entry,), _ = run(path, out, endpoint.url)
    assert summary.done == (full_for == 1)
    if full_for > 1:
        assert entry.error is not None
        assert "No space left" in entry.error["message"]

    monkeypatch.undo()
    summary, _, _ = run(path, out, endpoint.url)
    assert (summary.done, len(endpoint.jobs), endpoint.paid) == (1, 1, 1)


@pytest.mark.parametrize("pages", [1, 3])
def test_a_web_page_instead_of_a_status_never_ends_a_paid_job(
    endpoint: FakeEndpoint, tmp_path: Path, pages: int
) -> None:
    path, out = listed(tmp_path, ["x"]), tmp_path / "out"
    endpoint.script("status", *["html"] * pages)
    summary, _, _ = run(path, out, endpoint.url)
    assert summary.done == (pages == 1)
    summary, _, _ = run(path, out, endpoint.url)
    assert (summary.done, len(endpoint.jobs), endpoint.paid) == (1, 1, 1)


def test_a_store_that_limits_its_callers_fails_one_job_and_not_the_batch(
    endpoint: FakeEndpoint, tmp_path: Path
) -> None:
    path, out = listed(tmp_path, ["x", "y", "z"]), tmp_path / "out"
    endpoint.script("file", "429:60")
    summary, _, _ = run(path, out, endpoint.url, in_flight=1)
    assert (summary.done, summary.failed) == (2, 1)
    summary, _, _ = run(path, out, endpoint.url)
    assert (summary.done, endpoint.paid, len(endpoint.jobs)) == (3, 3, 3)


def test_a_ledger_on_a_full_disk_stops_the_batch_with_a_sentence(endpoint: FakeEndpoint, tmp_path: Path) -> None:
    path, out = listed(tmp_path, ["x"] * 20), tmp_path / "out"

    def small_disk() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, 60_000))

    command = [sys.executable, "-B", "-m", "darkroom.cli", "batch", str(path), "-o", str(out), "-e", endpoint.url]
    stopped = subprocess.run(command, capture_output=True, text=True, timeout=60, preexec_fn=small_disk)
    assert (stopped.returncode, "Traceback" in stopped.stderr) == (2, False), stopped.stderr
    assert "ledger.sqlite cannot be written" in stopped.stderr

    summary, _, _ = run(path, out, endpoint.url)
    assert (summary.done, endpoint.paid) == (20, 20)


def test_two_batches_cannot_write_to_one_folder(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "ledger.sqlite")
    with pytest.raises(LedgerBusy):
        Ledger(tmp_path / "ledger.sqlite")
    ledger.close()
    Ledger(tmp_path / "ledger.sqlite").close()


def test_a_file_that_is_no_ledger_is_not_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite"
    path.write_text("my notes, a good deal longer than the header of a database would be, and not one at all" * 3)
    with pytest.raises(ValueError, match="is no ledger"):
        Ledger(path)
    assert path.read_text().startswith("my notes")


def test_jobs_that_run_at_another_endpoint_are_not_paid_again_here(endpoint: FakeEndpoint, tmp_path: Path) -> None:
    plan = read_plan(listed(tmp_path, ["x"]), {})
    ledger = Ledger(tmp_path / "ledger.sqlite")
    entry = ledger.enter(plan, "https://api.runpod.ai/v2/abc")[0]
    ledger.record(Entry(entry.fingerprint, entry.key, entry.endpoint, "running", "job-9", 1))
    with pytest.raises(LedgerMismatch, match=r"api\.runpod\.ai/v2/abc"):
        ledger.enter(plan, endpoint.url)
    ledger.close()


class Page:
    """What a reader of the sheet finds, by regular expressions: the page is ours and flat."""

    def __init__(self, path: Path) -> None:
        self.text = path.read_text("utf-8")
        self.links = re.findall(r'(?:src|href)="([^"]*)"', self.text)
        self.cards = self.text.count("<article")


def test_the_contact_sheet_needs_no_network_and_hides_nothing(endpoint: FakeEndpoint, tmp_path: Path) -> None:
    prompts = ["<script>alert(1)</script>", "fail UNSAFE_URL", "plain"]
    out = tmp_path / "out"
    summary, entries, plan = run(listed(tmp_path, prompts), out, endpoint.url)
    page = Page(write_sheet(plan, entries, summary, out))

    assert page.cards == 3
    assert "<script>" not in page.text
    assert "UNSAFE_URL: as asked for" in page.text
    assert "seed 7" in page.text
    assert "2 of 3 done, 1 failed" in page.text
    for link in page.links:
        assert link.startswith("data:image/webp;base64,") or (out / link).is_file()


def test_a_long_sheet_keeps_its_thumbnails_beside_it(
    endpoint: FakeEndpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("darkroom.client.batch.sheet.MOST_EMBEDDED", 1)
    out = tmp_path / "out"
    summary, entries, plan = run(listed(tmp_path, ["x", "y"]), out, endpoint.url)
    for _ in range(2):
        page = Page(write_sheet(plan, entries, summary, out))
        assert len(page.links) == 6
        assert all((out / link).is_file() for link in page.links)
    assert len(list((out / "thumbnails").iterdir())) == 4


# -- interruptions ------------------------------------------------------------------------------


def start(path: Path, out: Path, url: str, *more: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "darkroom.cli", "batch", str(path), "-o", str(out), "-e", url, "-c", "3", *more]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def until(holds: Callable[[], bool], seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.005)


def test_a_batch_killed_while_it_submits_repeats_at_most_what_was_in_flight(
    server: FakeServer, tmp_path: Path
) -> None:
    path, out = listed(tmp_path, ["x"] * 20), tmp_path / "out"
    with server.serving(FakeEndpoint()) as fake:
        for sent in (4, 10):
            running = start(path, out, fake.url)
            until(lambda sent=sent: len(fake.jobs) >= sent)  # type: ignore[misc]
            running.kill()
            running.communicate(timeout=60)
        said, told = start(path, out, fake.url).communicate(timeout=60)
        assert said.startswith("20 of 20 done, 0 failed"), told
        assert (fake.paid, len(fake.charges)) == (20, 20)
        assert len(fake.jobs) <= 20 + 2 * 3


def test_a_batch_of_20_interrupted_twice_ends_with_20_results_and_20_charges(
    server: FakeServer, tmp_path: Path
) -> None:
    path, out = listed(tmp_path, ["x"] * 20), tmp_path / "out"
    with server.serving(FakeEndpoint(job_seconds=0.02)) as fake:
        fake.most_jobs = 5
        first = start(path, out, fake.url)
        until(lambda: fake.waiting == 3)
        first.send_signal(signal.SIGINT)
        _, told = first.communicate(timeout=60)
        assert first.returncode == 130
        assert "goes on from here" in told
        assert (out / "contact-sheet.html").is_file()

        fake.most_jobs = 11
        second = start(path, out, fake.url)
        until(lambda: fake.waiting == 3)
        second.kill()
        second.communicate(timeout=60)
        assert second.returncode == -signal.SIGKILL

        fake.most_jobs = None
        last = start(path, out, fake.url)
        said, told = last.communicate(timeout=60)
        assert last.returncode == 0, told
        assert said.startswith("20 of 20 done, 0 failed")
        assert fake.paid == 20
        assert set(fake.charges.values()) == {1}
        # Both times every job in flight had been asked for, so that no answer to /run was lost: none is sent twice.
        assert len(fake.jobs) == 20

    ledger = Ledger(out / "ledger.sqlite")
    entries = ledger.enter(read_plan(path, {}), fake.url)
    ledger.close()
    assert [(out / e.files[0]["file"]).read_bytes() for e in entries] == [picture(e.key) for e in entries]
    assert not list(out.glob("*.part"))
    assert Page(out / "contact-sheet.html").cards == 20
