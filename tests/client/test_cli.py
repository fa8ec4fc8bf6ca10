"""The commands as a shell sees them: what they print, where, and their exit codes."""

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image
from typer.testing import CliRunner

from darkroom.cli import app
from tests.client.fake_endpoint import FakeEndpoint, FakeServer, picture
from tests.client.test_batch import listed, until

RUNNER = CliRunner()


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, endpoint: FakeEndpoint) -> Iterator[FakeEndpoint]:
    """A folder with photo.png as the working folder, and an endpoint in the environment."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photo.png").write_bytes(picture("photo"))
    monkeypatch.setenv("DARKROOM_ENDPOINT", endpoint.url)
    monkeypatch.delenv("RUNPOD_API_KEY", raising=False)
    monkeypatch.delenv("DARKROOM_API_KEY", raising=False)
    return endpoint


def run(*arguments: str) -> tuple[int, str, str]:
    result = RUNNER.invoke(app, list(arguments))
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.stdout, result.stderr


COMMANDS = ("edit", "generate", "video", "inject", "batch", "endpoint", "bench", "doctor", "pocket")


@pytest.mark.parametrize("command", [(), *((name,) for name in COMMANDS)])
def test_every_command_explains_itself(command: tuple[str, ...]) -> None:
    code, out, _ = run(*command, "--help")
    assert code == 0
    assert "Usage:" in out


def test_an_edit_writes_the_picture_and_says_what_it_took(shop: FakeEndpoint) -> None:
    code, out, _ = run("edit", "photo.png", "-p", "blue", "--seed", "7", "--compare")

    assert code == 0
    assert out.splitlines() == [
        "photo-edited.png  seed 7  24×16",
        "photo-edited-compare.png  before and after",
        ("cold  queue 5 ms · load 30 ms · fetch 1 ms · encode 2 ms · denoise 20 ms · decode 3 ms · upload 1 ms"
        " · total 60 ms"),
        "$0.0000076 · 0.04 GPU seconds on NVIDIA L4",
    ]
    assert Path("photo-edited.png").read_bytes() == picture(shop.jobs["job-1"]["key"])
    with Image.open("photo-edited-compare.png") as comparison:
        assert comparison.size == (24 + 8 + 24, 16)


def test_every_option_reaches_the_job_and_unset_ones_stay_the_endpoints(shop: FakeEndpoint) -> None:
    run("edit", "photo.png", "-p", "x")
    assert set(shop.jobs["job-1"]["input"]) == {"type", "images", "prompt", "idempotency_key"}

    options = ["--preset", "fast", "--steps", "6", "--cfg", "2.5", "--size", "64*64", "--num-images", "2",
               "--negative-prompt", "blur", "--lora", "a.safetensors:0.5", "--lora", "b", "--format", "webp",
               "--quality", "80", "--delivery", "base64", "--expires-seconds", "60", "--idempotency-key", "mine"]
    run("edit", "photo.png", "-p", "x", "-p", "y", *options)
    sent = shop.jobs["job-2"]["input"]
    del sent["images"]
    assert sent == {
        "type": "image_edit", "prompt": ["x", "y"], "preset": "fast", "num_inference_steps": 6,
        "true_cfg_scale": 2.5, "size": "64*64", "num_images": 2, "negative_prompt": "blur",
        "loras": [{"path": "a.safetensors", "scale": 0.5}, {"path": "b", "scale": 1.0}], "output_format": "webp",
        "output_quality": 80, "delivery": "base64", "expires_seconds": 60, "idempotency_key": "mine",
    }


def test_without_a_name_no_file_is_overwritten_and_with_one_it_is(shop: FakeEndpoint) -> None:
    for _ in range(2):
        run("edit", "photo.png", "-p", "x")
    run("edit", "photo.png", "-p", "x", "-o", "photo-edited.png")
    run("edit", "photo.png", "-p", "x", "-o", "folder")
    found = sorted(path.as_posix() for path in Path().rglob("*.png"))
    assert found == ["folder/photo-edited.png", "photo-edited-2.png", "photo-edited.png", "photo.png"]
    assert Path("photo-edited.png").read_bytes() == picture(shop.jobs["job-3"]["key"])


def test_watching_tells_every_step_once_on_stderr(shop: FakeEndpoint) -> None:
    _, out, err = run("edit", "photo.png", "-p", "steps 4", "--watch")
    steps = [line for line in err.splitlines() if line.startswith("denoise")]
    assert steps == ["denoise 0/4", "denoise 1/4", "denoise 2/4", "denoise 3/4"]
    assert "denoise 1/4" not in out


def test_json_is_the_reply_and_nothing_else(shop: FakeEndpoint) -> None:
    _, out, _ = run("edit", "photo.png", "-p", "x", "--json")
    reply = json.loads(out)
    assert reply["files"] == ["photo-edited.png"]
    assert reply["of_tomorrow"] == {"x": 1}


@pytest.mark.parametrize(("arguments", "code", "told"), [
    (["gone.png", "-p", "x"], 2, "there is no picture at gone.png"),
    (["photo.png", "-p", "fail UNSAFE_URL"], 1, "failed with UNSAFE_URL: as asked for"),
    (["photo.png", "-p", "x", "--seed", "-9"], 2, "seed: "),
    (["photo.png", "-p", "x", "--preset", "best"], 2, "Invalid value"),
    (["photo.png", "-p", "x", "-e", "not an address"], 2, "neither an endpoint id"),
    (["photo.png", "-p", "slow 30", "--timeout", "0.1"], 1, "is still IN_PROGRESS"),
    (["photo.png", "-p", "wrong"], 1, "SHA-256"),
])
def test_what_goes_wrong_is_one_sentence_and_an_exit_code(
    shop: FakeEndpoint, arguments: list[str], code: int, told: str
) -> None:
    found, _, err = run("edit", *arguments)
    assert (found, told in err) == (code, True), err


def test_an_interrupted_edit_takes_its_job_back(shop: FakeEndpoint) -> None:
    command = [sys.executable, "-m", "darkroom.cli", "edit", "photo.png", "-p", "slow 30"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    until(lambda: shop.calls["status"] >= 2)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=20)
    assert (process.returncode, shop.jobs["job-1"].get("cancelled")) == (130, True)
    assert "cancelled job job-1" in err


def test_an_edit_interrupted_before_its_first_status_takes_its_job_back(shop: FakeEndpoint) -> None:
    shop.script("status", *["503"] * 3)
    command = [sys.executable, "-m", "darkroom.cli", "edit", "photo.png", "-p", "slow 300"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    until(lambda: shop.calls["status"] >= 1)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert (process.returncode, shop.jobs["job-1"].get("cancelled")) == (130, True), err
    assert "cancelled job job-1" in err


def test_a_prompt_that_failed_among_others_is_told_and_counts(shop: FakeEndpoint) -> None:
    shop.failed_prompts = [{"index": 1, "prompt": "", "error": "INVALID_INPUT: prompt[1] is empty", "code": "X"}]
    code, out, err = run("edit", "photo.png", "-p", "x", "-p", "y")
    assert (code, "photo-edited.png" in out) == (1, True)
    assert "prompt[1] is empty" in err


def test_runpods_key_goes_to_runpod_only(shop: FakeEndpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RUNPOD_API_KEY", "rp-secret")
    run("edit", "photo.png", "-p", "x")
    assert set(shop.tokens) == {None}
    monkeypatch.setenv("DARKROOM_API_KEY", "own")
    shop.tokens.clear()
    run("edit", "photo.png", "-p", "x")
    assert set(shop.tokens) == {"Bearer own", None}


def test_a_batch_tells_a_script_what_happened(server: FakeServer, tmp_path: Path) -> None:
    path, bad = listed(tmp_path, ["x", "fail UNSAFE_URL"]), tmp_path / "bad.csv"
    bad.write_text("image,prompt\ngone.png,x\n")
    with server.serving(FakeEndpoint(api_key="right")) as fake:
        key = ["-e", fake.url, "--api-key", "right"]
        cases = {
            "some failed": (["batch", str(path), "-o", str(tmp_path / "a"), *key], 1, "UNSAFE_URL"),
            "wrong key": (["batch", str(path), "-o", str(tmp_path / "b"), "-e", fake.url], 3, "refuses this API key"),
            "nobody": (["batch", str(path), "-o", str(tmp_path / "c"), "-e", "http://127.0.0.1:9/v2/x"], 3, "running?"),
            "bad list": (["batch", str(bad), "-o", str(tmp_path / "d"), *key], 2, "bad.csv line 2: gone.png"),
            "bad field": (["batch", str(path), "-o", str(tmp_path / "e"), "--set", "sed=7"], 2, "did you mean seed"),
            "no field": (["batch", str(path), "-o", str(tmp_path / "f"), "--set", "seed"], 2, "FIELD=VALUE"),
        }
        for name, (arguments, code, told) in cases.items():
            found, _, err = run(*arguments)
            assert (name, found, told in err) == (name, code, True), err


def test_a_batch_of_a_folder_fills_open_fields(shop: FakeEndpoint) -> None:
    code, out, _ = run("batch", ".", "-o", "out", "-p", "blue", "--set", "seed=7", "--set", "preset=fast")
    assert (code, out.splitlines()[0][:22]) == (0, "1 of 1 done, 0 failed,")
    sent = shop.jobs["job-1"]["input"]
    assert (sent["prompt"], sent["seed"], sent["preset"]) == ("blue", 7, "fast")


def test_the_endpoint_says_why_it_cannot_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert run("endpoint")[0] == 2
    (tmp_path / "handler.py").write_text("")
    code, _, err = run("endpoint", "--host", "0.0.0.0")
    assert (code, "API key is required" in err) == (2, True)


@pytest.mark.parametrize(("options", "told"), [
    (["--host", "0.0.0.0", "--port", "8000"], "API key is required"),
    (["--workers", "-1"], "workers_max: input should be greater than"),
])
def test_a_setting_that_cannot_be_is_one_sentence(
    options: list[str], told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "handler.py").write_text("")
    code, _, err = run("endpoint", *options)
    assert (code, told in err) == (2, True), err
    assert not [word for word in ("input_value", "pydantic", "https://", "validation error") if word in err], err
    assert len(err.splitlines()) == 1
