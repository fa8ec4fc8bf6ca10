"""`darkroom endpoint`: what its options and the environment become, and that it runs as the guide says."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import httpx
import pytest
from typer.testing import CliRunner

import darkroom.local
from darkroom.cli import app
from darkroom.local import EndpointConfig

WORKERS = Path(__file__).parents[1] / "fakes" / "workers"


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[EndpointConfig]:
    """The configurations that would have been served, from a folder with a handler in it."""
    seen: list[EndpointConfig] = []
    monkeypatch.setattr(darkroom.local, "serve", lambda config, ready: seen.append(config))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "handler.py").touch()
    for name in ("DARKROOM_STORE", "DARKROOM_PUBLIC_URL", "DARKROOM_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    return seen


def asked(served: list[EndpointConfig], *arguments: str, **environment: str) -> EndpointConfig:
    result = CliRunner().invoke(app, ["endpoint", *arguments], env=environment)
    assert result.exit_code == 0, result.output
    return served[-1]


def test_the_environment_names_the_store_and_the_public_address(served: list[EndpointConfig]) -> None:
    assert asked(served).store == Path("results")
    config = asked(served, DARKROOM_STORE="elsewhere", DARKROOM_PUBLIC_URL="http://localhost:9000")
    assert (config.store, config.public_url) == (Path("elsewhere"), "http://localhost:9000")
    assert asked(served, DARKROOM_STORE="file:///tmp/a%20b").store == Path("/tmp/a b")
    assert asked(served, "--store", "mine", DARKROOM_STORE="elsewhere").store == Path("mine")


def test_a_bucket_is_left_to_the_workers(served: list[EndpointConfig]) -> None:
    config = asked(served, DARKROOM_STORE="s3://bucket/prefix")
    assert (config.store, config.env) == (None, {"DARKROOM_STORE": "s3://bucket/prefix"})
    assert asked(served, "--store", "s3://other").env == {"DARKROOM_STORE": "s3://other"}


@pytest.mark.parametrize("store", ["http://bucket", "s3://"])
def test_a_store_of_another_kind_is_refused(served: list[EndpointConfig], store: str) -> None:
    assert CliRunner().invoke(app, ["endpoint", "--store", store]).exit_code == 2
    assert not served


def test_the_scaler_can_be_chosen(served: list[EndpointConfig]) -> None:
    config = asked(served, "--scaler", "queue_delay", "--scaler-value", "4")
    assert (config.scaler, config.scaler_value) == ("queue_delay", 4.0)
    assert CliRunner().invoke(app, ["endpoint", "--scaler", "guess"]).exit_code == 2


def test_a_public_address_without_a_key_is_refused(served: list[EndpointConfig]) -> None:
    result = CliRunner().invoke(app, ["endpoint"], env={"DARKROOM_PUBLIC_URL": "https://gpu.example.org"})
    assert (result.exit_code, "API key is required" in result.output, served) == (2, True, [])


def test_it_serves_until_it_is_told_to_end(tmp_path: Path) -> None:
    command = [sys.executable, "-W", "error", "-m", "darkroom.cli", "endpoint", "--port", "0",
               "--handler", str(WORKERS / "bare.py")]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("DARKROOM_")}
    with subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                          text=True) as process:
        assert process.stdout is not None
        address = process.stdout.readline().strip()
        assert address.endswith("/v2/local"), process.stderr and process.stderr.read()
        try:
            health = httpx.get(f"{address}/health", trust_env=False).json()
            job = httpx.post(f"{address}/runsync", json={"input": {}}, timeout=60, trust_env=False).json()
        finally:
            process.send_signal(signal.SIGTERM)
        _, complaints = process.communicate(timeout=60)
    assert (health["jobs"]["inQueue"], job["status"]) == (0, "COMPLETED")
    assert (process.returncode, complaints) == (0, "")
    assert (tmp_path / "results" / ".endpoint" / "queue.sqlite").is_file()
