"""What a small mark decides can be known from the sight alone."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
import pytest

from darkroom.pocket.judging.rules import is_right
from darkroom.pocket.world.colours import NAMES, rgb
from darkroom.pocket.world.edits import Edit, draw_edit, reverse
from darkroom.pocket.world.grounds import flat
from darkroom.pocket.world.marks import SIGHT_SCALE
from darkroom.pocket.world.phrases import DIRECTIONS
from darkroom.pocket.world.scenes import Scene

MARKED = ("dot", "label", "arrow", "dot background", "dot move")


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
        assert is_right(edit, edit.target)
        assert not is_right(edit, _against(edit).render())


def _against(edit: Edit) -> Scene:
    """The target as another guess would have it."""
    assert edit.scene is not None
    other = next(n for n in NAMES if n not in (edit.colour, edit.before.colour if edit.before else None))
    if edit.kind == "dot background":
        return replace(edit.scene, ground=flat(rgb(other), edit.scene.width, edit.scene.height))
    assert edit.before is not None
    assert edit.after is not None
    if edit.kind in ("arrow", "dot move"):
        x, y = 2 * edit.before.x - edit.after.x, 2 * edit.before.y - edit.after.y
        return edit.scene.swap(edit.after, replace(edit.after, x=x, y=y))
    return edit.scene.swap(edit.after, replace(edit.after, colour=other))


@pytest.mark.parametrize("kind", ["dot", "dot background", "dot move"])
def test_a_large_dot_stands_where_the_small_one_does(kind: str) -> None:
    for case in range(6):
        edit = draw_edit(np.random.default_rng((4, case)), kind)
        assert edit.sight is not None
        assert edit.sight_large is not None
        small, large = (
            np.abs(cv2.resize(picture, (128, 128), interpolation=cv2.INTER_AREA) - edit.source).max(axis=-1) > 0.25
            for picture in (edit.sight, edit.sight_large)
        )
        assert 100 < large.sum() < 200
        assert small.sum() < 25
        assert (small & large).sum() >= 3
        # Edges of shapes differ a little where they were drawn at another size.
        assert (small & ~large).sum() <= 3
