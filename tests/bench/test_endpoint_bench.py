"""The endpoint benchmark: what it counts, how it sums up, and what it compares."""

import asyncio
import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from typer.testing import CliRunner

from darkroom.bench import latency
from darkroom.bench.compare import ratios, read_report
from darkroom.bench.endpoint import Plan
from darkroom.bench.latency import Sample, Warm, wait_until_cold
from darkroom.bench.machine import commit, machine
from darkroom.bench.picture import reference_card, variant
from darkroom.bench.plots import shares, write_plots
from darkroom.bench.prices import price_of, prices
from darkroom.bench.report import Setup, markdown, part, spread, summarise
from darkroom.cli import app
from darkroom.client import AsyncClient, ClientError, Polling
from tests.client.fake_endpoint import FakeEndpoint, FakeServer

SETUP = Setup("somewhere", "abc123", {"cpu": "x", "cores": 2, "memory_gib": 8.0, "python": "3.11"}, {"warm": 2})


def sample(kind: Any, wall_ms: float, **more: Any) -> Sample:
    given = {"timings": {"queue_ms": 1.0, "denoise_ms": wall_ms / 2, "total_ms": wall_ms * 0.75}, "delay_ms": 2.0,
             "execution_ms": wall_ms * 0.8, "images": 1, "gpu": "NVIDIA L4", "was_cold": kind == "cold"}
    return Sample(kind, wall_ms, **{**given, **more})


@pytest.fixture(scope="module")
def server() -> Iterator[FakeServer]:
    running = FakeServer()
    yield running
    running.stop()


@pytest.fixture
def report() -> dict[str, Any]:
    warm = Warm([sample("warm", wall) for wall in (100.0, 200.0, 300.0, 400.0)], 2.0)
    return summarise(SETUP, [sample("cold", 3000.0), sample("cold", 5000.0)], warm, prices([], "NVIDIA L4"))


@given(st.lists(st.floats(0.0, 1e6), min_size=1, max_size=50))
def test_percentiles_are_ordered_and_within_the_extremes(values: list[float]) -> None:
    found = spread(values)
    order = [found["min"], found["p50"], found["p95"], found["p99"], found["max"]]
    assert all(low <= high or low == pytest.approx(high) for low, high in itertools.pairwise(order))
    assert found["p50"] == pytest.approx(float(np.median(values)))


def test_failed_jobs_are_counted_and_left_out_of_the_times() -> None:
    found = part([sample("warm", 100.0), Sample("warm", 9999.0, error="INTERNAL")])
    assert (found["jobs"], found["failed"], found["phases"]["wall_ms"]["max"]) == (2, 1, 100.0)
    assert part([Sample("warm", 1.0, error="INTERNAL")])["phases"] == {}


def test_throughput_counts_images_over_the_whole_time(report: dict[str, Any]) -> None:
    assert report["warm"]["images_per_minute"] == pytest.approx(4 / 2.0 * 60)


def test_dollars_are_execution_for_warm_and_wall_clock_for_a_lone_cold_job(report: dict[str, Any]) -> None:
    (row,) = report["usd"]
    assert row["per_image"] == pytest.approx(0.00019 * 0.25 * 0.8)
    assert row["per_1000_images"] == pytest.approx(1000 * row["per_image"])
    assert row["per_lone_cold_job"] == pytest.approx(0.00019 * 4.0)
    assert not row["assumed_card"]


def test_a_card_that_did_not_run_the_jobs_is_marked() -> None:
    assert [price.assumed for price in prices(["A100", "L4"], "NVIDIA L4")] == [True, False]
    assert prices([], None) == []
    assert prices([], "NVIDIA GeForce GTX 970") == []
    with pytest.raises(ValueError, match=r"known are L4, RTX A5000, .*, H200"):
        price_of("GTX 970")


def test_what_weakens_a_measurement_is_said() -> None:
    warm = Warm([sample("warm", 1.0, was_cold=True), Sample("warm", 1.0, error="TIMEOUT")], 1.0)
    told = summarise(SETUP, [sample("cold", 1.0, was_cold=False)], warm, [])["warnings"]
    assert [line.split(" jobs")[0] for line in told] == ["1 of 1 cold", "1 of 2 warm", "1"]


def test_the_table_names_machine_commit_and_every_phase(report: dict[str, Any]) -> None:
    text = markdown(report)
    words = ("abc123", "NVIDIA L4", "## Cold: 2 jobs", "## Warm: 4 jobs", "| denoise |", "| wall |", "120.0 images")
    assert [word for word in words if word not in text] == []


def test_shares_add_up_to_the_wall_clock(report: dict[str, Any]) -> None:
    for kind in ("cold", "warm"):
        phases = report[kind]["phases"]
        assert sum(shares(phases).values()) == pytest.approx(phases["wall_ms"]["mean"])


def test_plots_are_pictures_and_left_out_without_jobs(report: dict[str, Any], tmp_path: Path) -> None:
    for path in write_plots(report, tmp_path):
        with Image.open(path) as picture:
            assert picture.width > 600
            assert len(picture.convert("RGB").getcolors(2**24) or []) > 20
    assert write_plots(summarise(SETUP, [], Warm([], 0.0), []), tmp_path) == []


def test_a_report_against_itself_has_ratio_one_and_unlike_runs_are_named(report: dict[str, Any]) -> None:
    text = ratios(report, report)
    assert "| warm | wall | 250.0 | 250.0 | 1.00 |" in text
    assert "differ" not in text
    assert "differ in worker's card" in ratios({**report, "gpu": ["NVIDIA A100"]}, report)


@pytest.mark.parametrize("text", ["", "[]", '{"darkroom_bench": 2}', '{"darkroom_bench": 1, "kind": "engine"}'])
def test_another_file_is_no_report(tmp_path: Path, text: str) -> None:
    (tmp_path / "old.json").write_text(text)
    with pytest.raises(ValueError, match=r"old\.json is not"):
        read_report(tmp_path / "old.json")


def test_every_job_edits_a_picture_of_its_own() -> None:
    card = reference_card(64)
    assert len({variant(card, number) for number in range(50)}) == 50
    assert variant(card, 3) == variant(card, 3)


def test_the_machine_is_described_but_not_named() -> None:
    import socket

    assert socket.gethostname() not in json.dumps(machine()) or len(socket.gethostname()) < 4
    assert commit(Path("/")) is None


@pytest.mark.parametrize("numbers", [(0, 0, 1), (-1, 1, 1), (1, 1, 0)])
def test_a_plan_without_jobs_is_refused(numbers: tuple[int, int, int]) -> None:
    with pytest.raises(ValueError, match="cold and warm"):
        Plan(*numbers, prompt="x")


def test_a_remote_endpoint_is_cold_when_it_counts_no_worker_or_after_silence(server: FakeServer) -> None:
    async def wait(fake: FakeEndpoint, seconds: float) -> float:
        async with AsyncClient(fake.url) as client:
            loop = asyncio.get_running_loop()
            started = loop.time()
            await wait_until_cold(client, seconds, poll_seconds=0.01)
            return loop.time() - started

    with server.serving(FakeEndpoint()) as fake:
        assert asyncio.run(wait(fake, 60.0)) < 30.0
        fake.health = {"jobs": {}, "workers": {"idle": 3, "ready": 3}}
        assert 0.2 <= asyncio.run(wait(fake, 0.2)) < 30.0


def test_an_endpoint_that_others_keep_busy_is_said_to_be(server: FakeServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(latency, "BUSY_SECONDS", 0.05)

    async def wait(fake: FakeEndpoint) -> None:
        async with AsyncClient(fake.url) as client:
            await wait_until_cold(client, 0.01, poll_seconds=0.005)

    busy = FakeEndpoint()
    busy.health = {"jobs": {"inProgress": 1}, "workers": {"running": 1}}
    with server.serving(busy) as fake, pytest.raises(ClientError, match="other jobs"):
        asyncio.run(wait(fake))


def test_a_job_that_no_worker_takes_ends_the_run_with_a_sentence(
    server: FakeServer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(latency, "PATIENCE_SECONDS", 0.5)
    monkeypatch.setattr(latency, "POLLING", Polling(least_seconds=0.01, most_seconds=0.02, doubt_seconds=0.0))

    async def job(fake: FakeEndpoint) -> None:
        async with AsyncClient(fake.url, polling=latency.POLLING) as client:
            await latency.timed(client, "cold", {"type": "image_edit", "prompt": "x"})

    endpoint = FakeEndpoint()
    endpoint.stuck = True
    endpoint.health = {"jobs": {}, "workers": {"unhealthy": 1}, "problem": "the weights are damaged"}
    with server.serving(endpoint) as fake:
        with pytest.raises(ClientError, match=r"a cold job was not done after 0\.5 s: the weights are damaged"):
            asyncio.run(job(fake))
        assert fake.calls["cancel"] == 1
    assert capsys.readouterr().err == "no worker takes the job: the weights are damaged\n"


def test_a_run_against_a_remote_endpoint_writes_everything_and_compares(
    server: FakeServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with server.serving(FakeEndpoint(job_seconds=0.02)) as fake:
        arguments = ["bench", "-e", fake.url, "--cold", "1", "--warm", "6", "-c", "2", "-o", "one", "--card", "A100"]
        result = CliRunner().invoke(app, arguments)
        assert result.exit_code == 0, result.output
        report = read_report(tmp_path / "one" / "report.json")
        assert (report["cold"]["jobs"], report["warm"]["jobs"], report["warm"]["failed"]) == (1, 6, 0)
        assert report["settings"]["concurrency"] == 2
        assert len({job["input"]["images"][0] for job in fake.jobs.values()}) == len(fake.jobs)
        assert "price only: not measured on it" in result.output

        again = ["bench", "-e", fake.url, "--cold", "0", "--warm", "2", "-o", "two", "--compare", "one/report.json"]
        result = CliRunner().invoke(app, again)
        assert result.exit_code == 0, result.output
        assert "| warm | denoise |" in result.output


def test_mistakes_are_told_before_anything_is_measured(server: FakeServer, tmp_path: Path) -> None:
    with server.serving(FakeEndpoint()) as fake:
        for more in (["--card", "GTX 970"], ["--compare", str(tmp_path / "gone.json")], ["--set", "sed=1"]):
            assert CliRunner().invoke(app, ["bench", "-e", fake.url, *more]).exit_code == 2
        assert fake.calls["run"] == 0
