"""The examples run as they stand, on models that the environment names; the commands say what they are for."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image
from typer.testing import CliRunner

from darkroom.cli import app
from darkroom.client.bridges import compare_input, train_input
from darkroom.errors import InvalidInput
from darkroom.models.bridge import to_bytes, untrained
from darkroom.technique.bridge import BridgeConfig

ROOT = Path(__file__).parents[1]


def run(script: str, vision: Path, family: Path, *arguments: str, cwd: Path) -> str:
    env = {**os.environ, "DARKROOM_VISION_MODEL": str(vision), "DARKROOM_EDIT_MODEL": str(family),
           "DARKROOM_PROFILE": "pocket"}  # fmt: skip
    command = [sys.executable, str(ROOT / "examples" / script), *arguments]
    return subprocess.run(command, env=env, cwd=cwd, capture_output=True, text=True, check=True).stdout


def test_extraction_tells_both_models_features(vision_folder: Path, family: Path, tmp_path: Path) -> None:
    said = run("bridge_extraction.py", vision_folder, family, cwd=tmp_path)
    assert "extractor: 16 tokens on a grid of 4 × 4" in said
    assert "early" in said
    assert "same token count: True" in said


def test_end_to_end_makes_a_sheet(vision_folder: Path, family: Path, tmp_path: Path) -> None:
    bridge = untrained(BridgeConfig(128, 128, rank=4))
    assert bridge.module.gate is not None
    bridge.module.gate.data.fill_(0.5)
    (tmp_path / "bridge.safetensors").write_bytes(to_bytes(bridge))
    said = run("bridge_end_to_end.py", vision_folder, family, "bridge.safetensors", cwd=tmp_path)
    assert "trained bridge, 16 tokens bridged" in said
    with Image.open(tmp_path / "bridge_end_to_end.png") as sheet:
        assert sheet.width > 6 * 128


def test_extract_as_a_command(
    vision_folder: Path, family: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (("VISION_MODEL", vision_folder), ("EDIT_MODEL", family), ("PROFILE", "pocket")):
        monkeypatch.setenv(f"DARKROOM_{name}", str(value))
    out = tmp_path / "report.json"
    photo = str(ROOT / "examples" / "photo.jpg")
    result = CliRunner().invoke(app, ["bridge", "extract", photo, "-p", "find the mark", "-o", str(out)])
    assert result.exit_code == 0, result.output
    report = json.loads(out.read_text())
    assert report["same_grid"]
    assert list(report["extractor"]["features"]) == ["early", "mid", "late", "final"]
    missing = CliRunner().invoke(app, ["bridge", "extract", str(tmp_path / "none.png")])
    assert missing.exit_code == 2
    for size in ((1, 1), (20_000, 1)):
        Image.new("RGB", size).save(tmp_path / "thin.png")
        thin = CliRunner().invoke(app, ["bridge", "extract", str(tmp_path / "thin.png")])
        assert thin.exit_code == 2
        assert "thin.png has" in thin.output.replace("\n", "")


def test_a_bridge_is_trained_and_compared_in_this_process(
    vision_folder: Path, family: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (("VISION_MODEL", vision_folder), ("EDIT_MODEL", family), ("PROFILE", "pocket")):
        monkeypatch.setenv(f"DARKROOM_{name}", str(value))

    def darkroom(*words: str) -> str:
        result = CliRunner().invoke(app, [str(word) for word in words])
        assert result.exit_code == 0, result.output
        return result.output

    triples, photo, prompt = str(tmp_path / "t.zip"), str(ROOT / "examples" / "photo.jpg"), ("-p", "make it sepia")
    darkroom("pocket", "triples", triples, "--count", "4", "--kind", "dot")
    quick = ("--distill-epochs", "1", "--flow-epochs", "0", "--rank", "4", "--lr", "0.01", "--local")
    darkroom("bridge", "train", triples, "-o", str(tmp_path / "made"), *quick)
    assert sorted(path.name for path in (tmp_path / "made").rglob("*") if path.is_file()) == [
        "bridge.safetensors", "curves.png", "manifest.json", "report.json",
    ]  # fmt: skip
    weights = str(tmp_path / "made" / "checkpoints" / "bridge.safetensors")
    maps = ("--bridge", weights, "--local", "-o", str(tmp_path / "maps"))
    darkroom("bridge", "attention", photo, *prompt, *maps)
    assert [path.name for path in sorted((tmp_path / "maps").iterdir())] == [
        f"attention_{name}_0000.png" for name in ("early", "late", "mid")
    ]
    small = ("--steps", "1", "--cfg", "1", "--size", "64*64", "--negative-prompt", "")
    said = darkroom("bridge", "compare", photo, *prompt, *small, "--bridge", weights, "--local",
                    "-o", str(tmp_path / "compared"))  # fmt: skip
    assert "bridge: trained" in said
    assert (tmp_path / "compared" / "comparison_0000.png").is_file()


def test_requests_are_checked_before_they_are_sent(tmp_path: Path) -> None:
    photo = str(ROOT / "examples" / "photo.jpg")
    request = compare_input([photo], ["make it red"], [], {"bridge": "untrained", "seed": None})
    assert request["images"][0].startswith("data:image/jpeg;base64,")
    assert "seed" not in request
    with pytest.raises(InvalidInput, match="2 instructions for 1 images"):
        compare_input([photo], ["a", "b"], [], {})
    (tmp_path / "t0").mkdir()
    (tmp_path / "t0" / "prompt.txt").write_text("make it red")
    first = train_input(str(tmp_path), {"distill_epochs": 1})
    assert first["dataset"].startswith("data:application/zip;base64,")
    assert train_input(str(tmp_path), {"distill_epochs": 1}) == first
    with pytest.raises(InvalidInput, match="lr"):
        train_input(str(tmp_path), {"lr": 2.0})
