"""The commands against the real local endpoint and the unmodified SDK; the documents' own commands among them."""

import contextlib
import hashlib
import json
import re
import shlex
import shutil
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from darkroom.cli import app
from darkroom.client import Client, JobStatus
from darkroom.local import EndpointConfig, running
from tests.client.fake_endpoint import picture
from tests.client.test_batch import Page, listed, start, until

ROOT = Path(__file__).parents[2]
TINTER = Path(__file__).parent / "workers" / "tinter.py"
DOCUMENTS = ("client.md", "prompting.md", "deploy.md")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("store")


@pytest.fixture(scope="module")
def local(store: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    config = EndpointConfig(
        command=(sys.executable, str(TINTER)), port=0, workers_max=1, store=store,
        data=tmp_path_factory.mktemp("endpoint"), drain_seconds=0.0, stop_grace_seconds=1.0,
    )
    with running(config) as address:
        yield f"{address}/v2/local"


def charges(store: Path, name: str = "charges.txt") -> list[str]:
    path = store / name
    return path.read_text().split() if path.is_file() else []


def test_an_edit_goes_through_the_sdk_and_tells_its_progress(local: str, tmp_path: Path) -> None:
    seen: list[JobStatus] = []
    with Client(local) as client:
        reply = client.edit(picture("x"), "invert it", progress=seen.append)
        path = client.download(reply.images[0], tmp_path / "a.png")
        assert client.health().jobs.completed >= 1
    assert path.read_bytes().startswith(b"\x89PNG")
    assert {status.status for status in seen} >= {"IN_QUEUE"}
    assert reply.delay_ms is not None


def test_a_batch_on_the_real_endpoint_survives_kill_and_pays_once(local: str, store: Path, tmp_path: Path) -> None:
    path, out, before = listed(tmp_path, ["x"] * 4), tmp_path / "out", len(charges(store))
    killed = start(path, out, local)
    until(lambda: len(charges(store)) >= before + 1)
    killed.kill()
    killed.communicate()

    last = start(path, out, local)
    said, told = last.communicate(timeout=60)

    assert said.startswith("4 of 4 done, 0 failed"), told
    paid = charges(store)[before:]
    assert len(paid) == len(set(paid)) == 4
    assert Page(out / "contact-sheet.html").cards == 4


def test_20_edits_on_the_real_endpoint_interrupted_twice_are_20_results_and_20_runs(
    local: str, store: Path, tmp_path: Path
) -> None:
    path, out = listed(tmp_path, ["x"] * 20), tmp_path / "out"
    before = len(charges(store, "runs.txt"))
    for count, sign in ((3, signal.SIGINT), (9, signal.SIGKILL)):
        stopped = start(path, out, local)
        until(lambda count=count: len(charges(store, "runs.txt")) >= before + count)  # type: ignore[misc]
        stopped.send_signal(sign)
        _, told = stopped.communicate(timeout=60)
        assert stopped.returncode == (130 if sign == signal.SIGINT else -sign), told

    said, told = start(path, out, local).communicate(timeout=120)

    assert said.startswith("20 of 20 done, 0 failed"), told
    runs = charges(store, "runs.txt")[before:]
    assert len(runs) == len(set(runs)) == 20
    results = [json.loads(line) for line in (out / "results.jsonl").read_text().splitlines()]
    assert len({result["files"][0]["file"] for result in results}) == 20
    for result in results:
        data = (out / result["files"][0]["file"]).read_bytes()
        assert hashlib.sha256(data).hexdigest() == result["files"][0]["sha256"]


# -- documents ----------------------------------------------------------------------------------


def blocks(document: str, language: str) -> list[str]:
    text = (ROOT / "docs" / document).read_text("utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.DOTALL | re.MULTILINE)


def commands(document: str) -> list[list[str]]:
    """Every `darkroom …` line of the document's bash blocks."""
    lines = [line for block in blocks(document, "bash") for line in block.splitlines() if line.strip()]
    assert all(line.startswith("darkroom ") for line in lines), lines
    return [shlex.split(line)[1:] for line in lines]


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, local: str) -> Path:
    """A working folder that has what the documents mention, the shipped photo first."""
    (tmp_path / "examples").mkdir()
    shutil.copy(ROOT / "examples" / "photo.jpg", tmp_path / "examples" / "photo.jpg")
    shutil.copy(TINTER, tmp_path / "handler.py")
    (tmp_path / "photos").mkdir()
    for name in ("a.png", "b.png"):
        (tmp_path / "photos" / name).write_bytes(picture(name))
    (tmp_path / "edits.csv").write_text("image,prompt,seed\nphotos/a.png,make it winter,7\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DARKROOM_ENDPOINT", local)
    return tmp_path


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_command_of_the_documents_runs(document: str, checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for arguments in commands(document):
        if arguments[0] in ("endpoint", "doctor", "bench"):
            continue  # tests of their own, below and beside: they start processes or look at this machine
        result = CliRunner().invoke(app, arguments)
        assert result.exit_code == 0, (arguments, result.output)
        if "-o" in arguments:
            out = checkout / arguments[arguments.index("-o") + 1]
            assert out.exists(), f"{arguments} did not write {out.name}"


def test_the_documents_benchmark_starts_workers_of_its_own(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DARKROOM_ENDPOINT")
    (arguments,) = [arguments for arguments in commands("deploy.md") if arguments[0] == "bench"]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    found = {path.name for path in (checkout / "bench-here").iterdir()}
    assert found == {"report.json", "report.md", "phases.png", "latency.png"}
    assert "## Cold: 1 jobs" in (checkout / "bench-here" / "report.md").read_text()


def test_the_python_example_of_the_document_runs(
    checkout: Path, local: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (example,) = blocks("client.md", "python")
    with contextlib.chdir(checkout):
        exec(compile(example.replace("http://127.0.0.1:8000/v2/local", local), "client.md", "exec"), {})
    assert (checkout / "sunset.png").is_file()
    assert "IN_" in capsys.readouterr().out


@pytest.mark.parametrize("document", DOCUMENTS)
def test_commands_that_need_an_account_are_at_least_spelled_right(document: str) -> None:
    for block in blocks(document, "sh"):
        for line in block.splitlines():
            if line.startswith("darkroom "):
                arguments = shlex.split(line, comments=True)[1:]
                options = {word.partition("=")[0] for word in arguments if word.startswith("-")}
                told = CliRunner(env={"COLUMNS": "300"}).invoke(app, [arguments[0], "--help"]).output
                assert not [option for option in options if option not in told], line
