"""The shipped bridge's stage learns, leaves pictures without marks alone, and ends the same each time."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from darkroom.models.bridge import digest
from darkroom.models.vision import VisionExtractor
from darkroom.pocket.judging.samples import load_editor
from darkroom.pocket.shipped import EDIT, WEIGHTS
from darkroom.pocket.stages.bridge_stage import BridgeRecipe, look_at, train_bridge
from darkroom.pocket.stages.course import Course

RECIPE = BridgeRecipe(triples=12, held_out=4, epochs=3, batch=4, rank=8)


@pytest.fixture(scope="module")
def eyes() -> VisionExtractor:
    return VisionExtractor.load(WEIGHTS / "qwen3vl", torch.device("cpu"), language=False)


def test_it_learns_and_ends_the_same_each_time(eyes: VisionExtractor, tmp_path: Path) -> None:
    editor = load_editor(EDIT)
    bridge, told = train_bridge(editor, eyes, RECIPE, tmp_path / "one.pt", Course())
    again, _ = train_bridge(editor, eyes, RECIPE, tmp_path / "other.pt", Course())
    assert len(told) == 4
    assert told[-1] < told[0]
    assert digest(bridge) == digest(again)


def test_the_aim_differs_from_the_baseline_only_where_a_mark_hides(eyes: VisionExtractor, tmp_path: Path) -> None:
    seen = look_at(load_editor(EDIT), eyes, RECIPE, tmp_path / "seen.pt", Course())
    gap = (seen.aim - seen.baseline).square().mean(dim=(1, 2)) / seen.aim.square().mean(dim=(1, 2))
    # By turns decided by a dot, and by words alone.
    assert (gap[0::2] > 0.01).all()
    assert (gap[1::2] < 1e-3).all()
    assert seen.levels[0].shape == (12, 16, eyes.hidden_size)


def test_the_shipped_bridge_is_whole_and_fits(eyes: VisionExtractor) -> None:
    from darkroom.models.bridge import from_bytes

    bridge = from_bytes(Path(WEIGHTS / "bridge" / "bridge.safetensors").read_bytes())
    assert not bridge.is_identity
    bridge.fits(128, eyes.hidden_size, eyes.levels)
