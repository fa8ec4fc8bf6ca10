"""What a small mark decides can be known from the sight alone."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
import pytest

from darkroom.pocket.judging.rules import is_right
from darkroom.pocket.world.colours import NAMES
from darkroom.pocket.world.edits import draw_edit, reverse
from darkroom.pocket.world.marks import SIGHT_SCALE
from darkroom.pocket.world.phrases import DIRECTIONS

MARKED = ("dot", "label", "arrow")


@pytest.mark.parametrize("kind", MARKED)
def test_the_sight_is_the_source_and_a_small_mark(kind: str) -> None:
    for case in range(8):
        edit = draw_edit(np.random.default_rng((1, case)), kind, width=192, height=128)
        assert edit.sight is not None
        assert edit.sight.shape == (128 * SIGHT_SCALE, 192 * SIGHT_SCALE, 3)
        small = cv2.resize(edit.sight, (192, 128), interpolation=cv2.INTER_AREA)
        differs = np.abs(small - edit.source).max(axis=-1) > 0.15
        assert 3 <= differs.sum() <= 0.02 * differs.size


@pytest.mark.parametrize("kind", MARKED)
def test_neither_words_nor_the_source_say_what_the_mark_says(kind: str) -> None:
    for case in range(20):
        edit = draw_edit(np.random.default_rng((2, case)), kind)
        assert not set(edit.instruction.lower().rstrip(".").split()) & {*NAMES, *DIRECTIONS}
        assert reverse(np.random.default_rng(0), edit) is None


@pytest.mark.parametrize("kind", MARKED)
def test_a_guess_against_the_mark_is_wrong(kind: str) -> None:
    for case in range(6):
        edit = draw_edit(np.random.default_rng((3, case)), kind)
        assert edit.before is not None
        assert edit.after is not None
        assert edit.scene is not None
        # The scene of the target without the shape, then the shape as another guess would have it.
        rest = edit.scene.swap(edit.after, None)
        if kind == "arrow":
            x, y = 2 * edit.before.x - edit.after.x, 2 * edit.before.y - edit.after.y
            guess = replace(edit.after, x=x, y=y)
        else:
            guess = replace(edit.after, colour=next(n for n in NAMES if n not in (edit.colour, edit.before.colour)))
        assert is_right(edit, edit.target)
        assert not is_right(edit, rest.swap(edit.before, guess).render())
