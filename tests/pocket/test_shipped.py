"""Weights on disk are whole, or the error names the file and the way back."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from darkroom.errors import ModelNotReady
from darkroom.models import weights as engine_weights
from darkroom.pocket.family import build
from darkroom.pocket.shipped import CHECKSUMS, EDIT, install, verify


@pytest.fixture
def installed(tmp_path: Path) -> Path:
    install(build(tmp_path / "family"), tmp_path / "edit")
    return tmp_path / "edit"


def test_a_whole_family_passes_here_and_in_the_engine(installed: Path) -> None:
    verify(installed)
    engine_weights.verify(installed)


@pytest.mark.parametrize("name", ["vae/diffusion_pytorch_model.safetensors", "text_encoder/config.json"])
def test_a_damaged_file_is_named_with_how_to_rebuild_it(installed: Path, name: str) -> None:
    path = installed / name
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(ModelNotReady, match=f"edit/{name} is damaged.*darkroom pocket train"):
        verify(installed)


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
