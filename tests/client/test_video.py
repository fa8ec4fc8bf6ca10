"""`darkroom video` as a shell sees it, by an endpoint and in this process."""

from __future__ import annotations

import csv
import io
import json
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from darkroom.cli import app
from darkroom.cli_resume import note_of
from darkroom.cli_video import ROOM
from darkroom.client.clips import clip_source
from darkroom.client.sources import from_data_uri
from tests.client.fake_endpoint import FakeEndpoint, picture
from tests.service.clips import frame, png

RUNNER = CliRunner()


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, endpoint: FakeEndpoint) -> Iterator[FakeEndpoint]:
    """A folder with init.png and a folder of edges as the working folder, and an endpoint in the environment."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "init.png").write_bytes(png(frame(0)))
    (tmp_path / "edges").mkdir()
    for number in (1, 2, 10):
        (tmp_path / "edges" / f"e{number}.png").write_bytes(png(frame(number).convert("L")))
    monkeypatch.setenv("DARKROOM_ENDPOINT", endpoint.url)
    monkeypatch.delenv("RUNPOD_API_KEY", raising=False)
    monkeypatch.delenv("DARKROOM_API_KEY", raising=False)
    return endpoint


def run(*arguments: str) -> tuple[int, str, str]:
    result = RUNNER.invoke(app, ["video", *arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.stdout, result.stderr


def notes() -> list[Path]:
    """The keys of unfinished jobs in out/."""
    return list(Path("out").glob(".darkroom-*.json"))


def test_a_clip_arrives_whole_and_every_option_reaches_the_job(shop: FakeEndpoint) -> None:
    code, out, err = run(
        *(
            "init.png",
            "--edges",
            "edges",
            "-o",
            "out",
            "--prompt",
            "follow",
            "--steps",
            "4",
            "--cfg",
            "2",
            "--seed",
            "3",
        ),
        *("--max-frames", "2", "--fps", "12", "--negative-prompt", "blur", "--metrics-out", "m/metrics.csv"),
        *("--ttlg-edge-scale", "1", "--ttlg-gram-scale", "0.2", "--ttlg-temporal-scale", "0.1", "--ttlg-lr", "0.03"),
        *("--ttlg-every", "2", "--ttlg-start-step", "0", "--ttlg-end-step", "3", "--ttlg-last-steps", "3"),
        *(
            "--ttlg-edge-size",
            "64",
            "--ttlg-gram-size",
            "48",
            "--ttlg-iterations",
            "3",
            "--ttlg-through",
            "transformer",
        ),
    )
    assert code == 0, err
    asked = shop.jobs["job-1"]["input"]
    plain = {
        "prompt": "follow",
        "num_inference_steps": 4,
        "true_cfg_scale": 2.0,
        "seed": 3,
        "max_frames": 2,
        "fps": 12.0,
    }
    assert {name: asked[name] for name in plain} == plain
    assert asked["ttlg"] == {
        "edge_scale": 1.0, "gram_scale": 0.2, "temporal_scale": 0.1, "lr": 0.03, "every": 2, "start_step": 0,
        "end_step": 3, "last_steps": 3, "edge_size": 64, "gram_size": 48, "iterations": 3, "through": "transformer",
    }  # fmt: skip
    with zipfile.ZipFile(io.BytesIO(from_data_uri(asked["edges"]))) as archive:
        assert archive.namelist() == ["e1.png", "e2.png", "e10.png"]
    assert Path("out/video.mp4").read_bytes().startswith(b"clip ")
    assert Path("out/frames/frame_0000.png").read_bytes() == picture(asked["idempotency_key"])
    assert Path("m/metrics.csv").read_bytes() == Path("out/metrics.csv").read_bytes()
    assert out.splitlines()[0] == "out/video.mp4  1 frames  seed 7"
    assert "warning: a word" in err
    assert not notes()


def test_the_seeds_names_of_files_work(shop: FakeEndpoint) -> None:
    code, _, err = run("--init-frame", "init.png", "--edge-frames-dir", "edges", "--out-frames-dir", "out",
                       "--num-inference-steps", "2", "--true-cfg-scale", "1")  # fmt: skip
    assert code == 0, err
    assert "ttlg" not in shop.jobs["job-1"]["input"]


def test_an_interrupted_command_goes_on_under_its_key_and_another_request_does_not(shop: FakeEndpoint) -> None:
    command = ("init.png", "--edges", "edges", "-o", "out", "--seed", "3")
    assert run(*command, "--timeout", "0", "--prompt", "slow 60")[0] == 1
    key = json.loads(notes()[0].read_text())["idempotency_key"]
    assert run(*command, "--timeout", "0", "--prompt", "slow 60")[0] == 1
    assert shop.jobs["job-2"]["input"]["idempotency_key"] == key
    assert shop.paid == 1
    assert run(*command)[0] == 0
    assert shop.jobs["job-3"]["input"]["idempotency_key"] != key


def test_what_has_arrived_is_not_fetched_again(shop: FakeEndpoint) -> None:
    command = ("init.png", "--edges", "edges", "-o", "out")
    Path("out/frames").mkdir(parents=True)
    assert run(*command)[0] == 0
    fetched = shop._served.total()
    key = shop.jobs["job-1"]["key"]
    request = {k: v for k, v in shop.jobs["job-1"]["input"].items() if k != "idempotency_key"}
    note_of(request, Path("out")).write_text(json.dumps({"idempotency_key": key}))
    Path("out/video.mp4").unlink()
    assert run(*command)[0] == 0
    assert Path("out/video.mp4").exists()
    assert shop._served.total() == fetched


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--edges", "edges"), "give the first frame once"),
        (("init.png",), "give edges"),
        (("init.png", "--edges", "nowhere"), "there is no folder, zip or video at nowhere"),
        (("init.png", "--edges", "edges", "--source", "init.png"), "not both"),
        (("init.png", "--edges", "edges", "--ttlg-edge-scale", "-1"), "ttlg.edge_scale"),
        (("init.png", "--edges", "edges", "--ttlg-lr", "0.1"), "nothing would guide"),
        (("init.png", "--edges", "edges", "--model-id", "x"), "choose for --local"),
        (("init.png", "--edges", "edges", "--local", "--dtype", "fp16"), "float16"),
        (("init.png", "--edges", "edges", "--local", "--device", "cuda"), "no CUDA device"),
    ],
)
def test_wrong_usage_is_a_sentence(shop: FakeEndpoint, arguments: tuple[str, ...], words: str) -> None:
    code, _, err = run(*arguments, "-o", "out")
    assert code == 2, err
    assert words in err
    assert shop.calls["run"] == 0


def test_a_folder_without_pictures_is_said(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no pictures in"):
        clip_source(tmp_path)


def test_in_this_process_the_same_files_come_out(
    shop: FakeEndpoint, family: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DARKROOM_PROFILE", "pocket")
    command = ("init.png", "--edges", "edges", "-o", "out", "--local", "--steps", "1", "--max-frames", "2")
    code, out, err = run(*command, "--model-id", str(family), "--json")
    assert code == 0, err
    assert json.loads(out)["num_frames"] == 3
    names = {path.relative_to("out").as_posix() for path in Path("out").rglob("*") if path.is_file()}
    films = {"video.mp4", "side_by_side.mp4", "contact_sheet.png", "metrics.csv", "metrics.png", "manifest.json"}
    assert names == films | {f"frames/frame_000{number}.png" for number in range(3)}
    assert not Path("out", ROOM).exists()
    assert [row["frame"] for row in csv.DictReader(Path("out/metrics.csv").read_text().splitlines())] == ["1", "2"]


def test_a_failing_job_in_this_process_keeps_its_frames_and_goes_on(
    shop: FakeEndpoint, family: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DARKROOM_PROFILE", "pocket")
    Path("edges/e2.png").write_bytes(b"no picture")
    command = ("init.png", "--edges", "edges", "-o", "out", "--local", "--steps", "1", "--model-id", str(family))
    code, _, err = run(*command)
    assert code == 1
    assert "edges[e2.png]" in err
    assert "frame 2" in err
    assert Path("out", ROOM, "clip/frames/frame_0001.png").exists()


def test_the_self_test_passes_without_a_model() -> None:
    code, out, _ = run("--self-test")
    assert code == 0, out
    assert out.count("ok  ") == 7
