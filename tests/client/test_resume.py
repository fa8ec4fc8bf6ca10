"""The same command goes on where an interrupted one stopped: the key in the output folder, and a training by it."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from darkroom.cli import app
from darkroom.cli_job import by_endpoint
from darkroom.cli_resume import note_of, resumable
from darkroom.client.errors import JobFailed, WaitTimeout
from darkroom.local import EndpointConfig, running
from tests.client.fake_endpoint import FakeEndpoint
from tests.client.test_batch import until
from tests.client.test_inject import person

ROOT = Path(__file__).parents[2]
EPOCHS = "40"


def asked(prompt: str) -> dict[str, Any]:
    return {"type": "bridge_compare", "images": ["https://example.com/a.png"], "prompt": prompt}


def given_up(endpoint: FakeEndpoint, request: dict[str, Any], folder: Path) -> str:
    """Wait for no time; the key under which the request went out."""
    with pytest.raises(WaitTimeout):
        by_endpoint(request, folder, 0, endpoint.url, None)
    return str(list(endpoint.jobs.values())[-1]["key"])


def test_requests_that_share_a_folder_keep_their_own_keys_until_they_are_finished(
    endpoint: FakeEndpoint, tmp_path: Path
) -> None:
    first, second = asked("slow 60"), asked("slow 61")
    key, other = given_up(endpoint, first, tmp_path), given_up(endpoint, second, tmp_path)
    assert key != other
    assert (given_up(endpoint, first, tmp_path), given_up(endpoint, second, tmp_path)) == (key, other)
    assert endpoint.paid == 2
    done = asked("x")
    by_endpoint(done, tmp_path, None, endpoint.url, None)
    assert not note_of(done, tmp_path).exists()
    assert note_of(first, tmp_path).exists()
    assert note_of(second, tmp_path).exists()


def test_a_failed_job_goes_on_under_its_key_unless_the_store_refuses_the_key_itself(tmp_path: Path) -> None:
    keys = list[str]()

    def fail(field: str) -> None:
        with resumable(asked("x"), tmp_path) as keyed:
            keys.append(keyed["idempotency_key"])
            raise JobFailed("no", job_id="job-1", code="INVALID_INPUT", details={"field": field})

    for field in ("lr", "idempotency_key", "lr"):
        with pytest.raises(JobFailed):
            fail(field)
    assert keys[0] == keys[1] != keys[2]


def test_a_training_interrupted_after_an_epoch_goes_on_by_the_same_command(
    family: Path, image_family: Path, vision_folder: Path, tmp_path: Path
) -> None:
    for name in ("seed_0", "seed_1"):
        person(tmp_path / "people" / name, photos=2)
    config = EndpointConfig(
        command=(sys.executable, str(ROOT / "handler.py")), port=0, data=tmp_path / "data", store=tmp_path / "store",
        env={"DARKROOM_PROFILE": "pocket", "DARKROOM_EDIT_MODEL": str(family), "DARKROOM_PRELOAD": "",
             "DARKROOM_IMAGE_MODEL": str(image_family), "DARKROOM_VISION_MODEL": str(vision_folder),
             "DARKROOM_SPOOL": str(tmp_path / "spool")},
    )  # fmt: skip
    with running(config) as address:
        words = ["inject", "train", "--seed-dirs", str(tmp_path / "people"), "--epochs", EPOCHS, "--slots", "3",
                 "--rank", "8", "-o", str(tmp_path / "out"), "-e", f"{address}/v2/local"]  # fmt: skip
        command = [sys.executable, "-m", "darkroom.cli", *words]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as first:
            until(lambda: any(tmp_path.glob("store/*/checkpoints/head.safetensors")), 120)
            first.send_signal(signal.SIGINT)
            _, told = first.communicate(timeout=60)
        assert first.returncode == 130, told
        (note,) = tmp_path.glob("out/.darkroom-*.json")
        key = json.loads(note.read_text())["idempotency_key"]

        result = CliRunner().invoke(app, words)

    assert result.exit_code == 0, result.output
    assert "went on after epoch" in result.stderr
    assert not note.exists()
    (head,) = tmp_path.glob("store/*/checkpoints/head.safetensors")
    assert f"key: {head.relative_to(tmp_path / 'store')}" in result.stdout.splitlines()
    assert (tmp_path / "out" / "checkpoints" / "head.safetensors").read_bytes() == head.read_bytes()
    assert (tmp_path / "store" / "idempotency" / f"{key}.json").is_file()
