"""What the model card promises, the shipped weights do: every kind that they were taught, on cases never trained on."""

from __future__ import annotations

from itertools import count, islice

import pytest

from darkroom.models.editor import Editor
from darkroom.models.presets import Preset
from darkroom.models.shelf import Shelf
from darkroom.models.specs import PROFILES
from darkroom.pocket.evaluate import held_out
from darkroom.pocket.judging.rules import is_right
from darkroom.pocket.judging.samples import apply
from darkroom.pocket.shipped import TAUGHT
from darkroom.pocket.world.edits import Edit

CASES = 5


def undone(kind: str) -> list[Edit]:
    """Held-out cases that the card's table does not use, in whose source something is left to do."""
    edits = (held_out(kind, number) for number in count(1000))
    return list(islice((edit for edit in edits if not is_right(edit, edit.source)), CASES))


@pytest.fixture(scope="module")
def editor() -> Editor:
    return Shelf(PROFILES["pocket"]).editor("edit")


@pytest.mark.parametrize("kind", TAUGHT)
def test_what_is_promised_comes_out_right(editor: Editor, kind: str) -> None:
    preset = Preset(steps=8, true_cfg_scale=1.0)
    right = [is_right(edit, apply(editor, edit, 3, preset)) for edit in undone(kind)]
    # 85 % is the least that is promised; of five cases two may fail by chance.
    assert sum(right) >= CASES - 2
