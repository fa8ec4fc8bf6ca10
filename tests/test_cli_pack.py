"""`darkroom pack` as a person uses it."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from darkroom.cli import app
from darkroom.models.packing import read_manifest
from darkroom.models.specs import PROFILES


def run(*words: str | Path) -> Result:
    return CliRunner().invoke(app, ["pack", *map(str, words)])


def test_a_checkpoint_is_packed_for_a_card_and_checked(family: Path, tmp_path: Path) -> None:
    result = run(family, tmp_path / "out", "--profile", "l4")
    assert result.exit_code == 0, result.output
    assert "fp8 for profile l4" in result.stdout
    assert f"DARKROOM_EDIT_MODEL={tmp_path / 'out'}" in result.stdout
    result = run(tmp_path / "out", "--verify")
    assert result.exit_code == 0
    assert "files are as they were written" in result.stdout


def test_qwen_image_is_packed_for_its_own_role(image_family: Path, tmp_path: Path) -> None:
    result = run(image_family, tmp_path / "out", "--profile", "pocket", "--role", "image")
    assert result.exit_code == 0, result.output
    assert f"DARKROOM_IMAGE_MODEL={tmp_path / 'out'}" in result.stdout


@pytest.mark.parametrize("profile", [name for name in PROFILES if name != "rtx3090"])
def test_every_profile_packs_in_its_own_precision(family: Path, tmp_path: Path, profile: str) -> None:
    assert run(family, tmp_path / "out", "-p", profile).exit_code == 0
    assert read_manifest(tmp_path / "out").precision == PROFILES[profile].precision


def test_the_precision_can_be_chosen(family: Path, tmp_path: Path) -> None:
    assert run(family, tmp_path / "out", "-p", "a100", "--precision", "int8").exit_code == 0
    assert read_manifest(tmp_path / "out").precision == "int8"


def test_a_damaged_artifact_is_found_and_the_file_named(family: Path, tmp_path: Path) -> None:
    run(family, tmp_path / "out", "-p", "pocket")
    file = tmp_path / "out" / "transformer" / "00001.safetensors"
    file.write_bytes(file.read_bytes()[:-1] + b"x")
    result = run(tmp_path / "out", "--verify")
    assert result.exit_code == 1
    assert "transformer/00001.safetensors is damaged" in result.stderr


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["nowhere"], 2, "OUT is missing"),
        (["./nowhere", "out"], 1, "nowhere"),
        (["nowhere", "--verify"], 2, "no folder"),
        ([".", "out", "--verify"], 2, "one folder"),
        ([".", "out", "--profile", "l5"], 2, "l5"),
        ([".", "out", "--precision", "fp4"], 2, "fp4"),
    ],
)
def test_wrong_use_is_told_in_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], code: int, message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    result = run(*words)
    assert result.exit_code == code
    assert message in result.stderr


def test_a_folder_in_use_is_refused_and_left_alone(family: Path, tmp_path: Path) -> None:
    (tmp_path / "busy").mkdir()
    (tmp_path / "busy" / "mine").touch()
    result = run(family, tmp_path / "busy", "-p", "pocket")
    assert result.exit_code == 2
    assert "not empty" in result.stderr
