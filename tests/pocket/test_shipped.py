"""Weights on disk are whole, or the error names the file and the way back."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from darkroom.cli_pocket import pocket
from darkroom.errors import ModelNotReady
from darkroom.models import weights as engine_weights
from darkroom.pocket import parts, shipped
from darkroom.pocket.family import build
from darkroom.pocket.recipes import RECIPES
from darkroom.pocket.shipped import CHECKSUMS, EDIT, WEIGHTS, install, verify
from darkroom.pocket.stages.course import Course


@pytest.fixture
def installed(tmp_path: Path) -> Path:
    install(build(tmp_path / "family"), tmp_path / "edit")
    return tmp_path / "edit"


def test_a_whole_family_passes_here_and_in_the_engine(installed: Path) -> None:
    verify(installed)
    engine_weights.verify(installed)


def test_a_part_that_cannot_be_sealed_leaves_the_one_in_place(
    installed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(folder: Path) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr(shipped, "seal", full)
    with pytest.raises(OSError, match="No space left"):
        install(tmp_path / "family", installed)
    verify(installed)
    monkeypatch.undo()
    install(tmp_path / "family", installed)
    verify(installed)
    assert {path.name for path in tmp_path.iterdir()} == {"family", "edit"}


@pytest.mark.parametrize("name", ["vae/diffusion_pytorch_model.safetensors", "text_encoder/config.json"])
def test_a_damaged_file_is_named_with_how_to_rebuild_it(installed: Path, name: str) -> None:
    path = installed / name
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(ModelNotReady, match=f"edit/{name} is damaged.*darkroom pocket train"):
        verify(installed)


@pytest.mark.parametrize(
    "arguments",
    [
        ["evaluate", "--cases", "1", "--kind", "sepia", "--weights"],
        ["evaluate", "--preset", "fast", "--weights"],
        ["train", "--recipe", "smoke", "--device", "cpu", "--begin-with"],
        ["train", "--recipe", "smoke", "--device", "cpu", "--part", "bridge", "--begin-with"],
    ],
)
def test_who_reads_a_damaged_family_is_told_the_file(installed: Path, tmp_path: Path, arguments: list[str]) -> None:
    path = installed / "transformer" / "diffusion_pytorch_model.safetensors"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    elsewhere = ["--work" if arguments[0] == "train" else "--out", str(tmp_path / "made")]

    def said(family: Path) -> str:
        answer = CliRunner().invoke(pocket, [*arguments, str(family), *elsewhere])
        assert answer.exit_code == 1, answer.output
        assert isinstance(answer.exception, SystemExit)
        assert not (tmp_path / "made").exists()
        return answer.output

    assert f"edit/transformer/{path.name} is damaged" in said(installed)
    # Without checksums a file must be as long as it says.
    (installed / CHECKSUMS).unlink()
    path.write_bytes(content[:-100])
    assert f"{path} is damaged or was cut short" in said(installed)
    path.write_bytes(content[:5])
    assert f"{path} is damaged or was cut short" in said(installed)


@pytest.mark.parametrize("arguments", [["evaluate", "--weights"], ["train", "--begin-with"]])
def test_where_there_is_no_family_nothing_else_is_asked(tmp_path: Path, arguments: list[str]) -> None:
    answer = CliRunner().invoke(pocket, [*arguments, str(tmp_path / "nowhere")])
    assert answer.exit_code == 2
    told = " ".join(re.sub("[│╭╮╰╯─]", " ", answer.output).split())
    assert f"{arguments[1]}: there is no family in" in told or "Invalid value for --weights: there is no" in told


def test_a_bridge_is_not_trained_to_a_damaged_sight(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(WEIGHTS / "qwen3vl", tmp_path / "weights" / "qwen3vl")
    (tmp_path / "weights" / "qwen3vl" / "config.json").write_text("{}")
    monkeypatch.setattr(parts, "WEIGHTS", tmp_path / "weights")
    with pytest.raises(ModelNotReady, match=r"qwen3vl/config\.json is damaged; restore it .*train --install"):
        parts.train_parts(["bridge"], tmp_path / "work", RECIPES["smoke"], Course())


def test_a_missing_file_is_named(installed: Path) -> None:
    (installed / "scheduler" / "scheduler_config.json").unlink()
    with pytest.raises(ModelNotReady, match=r"edit/scheduler/scheduler_config\.json is missing.*darkroom pocket train"):
        verify(installed)


def test_weights_of_another_version_are_refused(installed: Path) -> None:
    listing = installed / CHECKSUMS
    listing.write_text(json.dumps({**json.loads(listing.read_text()), "version": 0}))
    with pytest.raises(ModelNotReady, match="version 0, not 1"):
        verify(installed)


def test_a_listing_that_is_no_json_is_named(installed: Path) -> None:
    (installed / CHECKSUMS).write_text("{")
    with pytest.raises(ModelNotReady, match=f"edit/{CHECKSUMS} is damaged"):
        verify(installed)


def test_the_shipped_family_is_whole_and_within_its_budget() -> None:
    verify(EDIT)
    sizes = [path.stat().st_size for path in EDIT.rglob("*") if path.is_file()]
    assert max(sizes) <= 15_000_000
    assert sum(sizes) <= 100_000_000
