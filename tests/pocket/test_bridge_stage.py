"""The shipped bridge's stage learns, leaves pictures without marks alone, and ends the same each time."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from darkroom.models.bridge import MADE_FOR, digest, from_bytes, made_between, untrained
from darkroom.models.vision import VisionExtractor
from darkroom.pocket.judging.samples import load_editor
from darkroom.pocket.shipped import EDIT, WEIGHTS, verify
from darkroom.pocket.stages.bridge_stage import BridgeRecipe, look_at, save_bridge, train_bridge
from darkroom.pocket.stages.course import Course
from darkroom.technique.bridge import BridgeConfig

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
    verify(WEIGHTS / "bridge")
    bridge = from_bytes((WEIGHTS / "bridge" / "bridge.safetensors").read_bytes())
    assert not bridge.is_identity
    bridge.fits(128, eyes.hidden_size, eyes.levels)
    # Where this fails: `darkroom pocket train --part bridge --install`.
    assert bridge.about[MADE_FOR] == made_between(EDIT / "text_encoder", WEIGHTS / "qwen3vl")


def test_a_file_says_which_models_it_was_made_for(tmp_path: Path) -> None:
    made_for = made_between(EDIT / "text_encoder", WEIGHTS / "qwen3vl")
    path, bridge = tmp_path / "own" / "bridge.safetensors", untrained(BridgeConfig(8, 8, rank=2))
    save_bridge(bridge, path, made_for)
    again = from_bytes(path.read_bytes())
    assert digest(again) == digest(bridge)
    assert again.strangers(made_for) == bridge.strangers(made_for) == again.strangers({}) == []
    assert again.strangers({**made_for, "vision": "another"}) == ["vision model"]
    others = again.strangers(dict.fromkeys(made_for, "another"))
    assert others == ["vision tower of the text encoder", "vision model"]


def test_a_text_encoder_whose_words_learned_on_keeps_its_bridge(tmp_path: Path) -> None:
    file = EDIT / "text_encoder" / "model.safetensors"
    tensors = load_file(file)
    words = {name: value + 1 if name.startswith("model.") else value for name, value in tensors.items()}
    for folder, changed in (("words", words), ("sight", {name: value + 1 for name, value in tensors.items()})):
        (tmp_path / folder).mkdir()
        save_file(changed, tmp_path / folder / "model.safetensors")
    # As another release of transformers names and spreads them.
    (tmp_path / "spread").mkdir()
    for number, names in enumerate((sorted(tensors)[::2], sorted(tensors)[1::2])):
        part = {f"model.{name}": tensors[name] for name in names}
        save_file(part, tmp_path / "spread" / f"model-{number}.safetensors")
    own = made_between(file.parent, None)
    assert own == made_between(tmp_path / "words", None) == made_between(tmp_path / "spread", None)
    assert own != made_between(tmp_path / "sight", None)
