"""What looks wrong is wrong, though most of the picture is right: pictures that are nearly an edit's target."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from darkroom.pocket.evaluate import held_out
from darkroom.pocket.judging.rules import is_right
from darkroom.pocket.world.colours import NAMES, Pixels, rgb
from darkroom.pocket.world.edits import SHAPE_EDITS, Edit
from darkroom.pocket.world.scenes import Item, Scene, draw_scene, fits, place, shows
from darkroom.pocket.world.shapes import SHAPES
from darkroom.pocket.world.tones import TONES

CASES = range(200, 212)
DRAWN = sorted(set(SHAPE_EDITS) - {"background", "remove"})


def with_shape(scene: Scene, picture: Pixels, item: Item) -> Pixels:
    """`picture` with one more shape on it."""
    return picture + scene.mask(item)[..., None] * (rgb(item.colour) - picture)


def wanted(kind: str) -> list[tuple[Edit, Scene, Item]]:
    """Edits with their scenes and what they are to draw."""
    found = []
    for number in CASES:
        edit = held_out(kind, number)
        assert edit.scene is not None
        assert edit.after is not None
        found.append((edit, edit.scene, edit.after))
    return found


@pytest.mark.parametrize("kind", SHAPE_EDITS)
def test_a_shape_that_nobody_asked_for_is_wrong(kind: str) -> None:
    tried = 0
    for number in CASES:
        edit = held_out(kind, number)
        assert edit.scene is not None
        # Where the rule of the kind looks: a new background has the ground of the target.
        scene = replace(edit.scene, items=edit.scene.items + ((edit.before,) if edit.before else ()))
        free = [shape for shape in SHAPES if shape not in {item.shape for item in scene.items}]
        surplus = place(np.random.default_rng(number), scene, free[0]) if free else None
        if surplus is not None and shows(replace(scene, ground=edit.target), surplus):
            tried += 1
            assert not is_right(edit, with_shape(scene, edit.target, surplus)), (kind, number)
    assert tried > 2


@pytest.mark.parametrize("kind", ["move", "smaller", "turn"])
def test_what_is_left_of_the_shape_in_another_colour_is_wrong(kind: str) -> None:
    for edit, scene, after in wanted(kind):
        assert edit.before is not None
        old = scene.mask(edit.before) * (1 - scene.mask(after))
        if (old > 0.5).sum() < 400:
            continue
        other = next(name for name in NAMES if np.abs(rgb(name) - edit.target).mean(axis=-1)[old > 0.5].min() > 0.3)
        left = edit.target + old[..., None] * (rgb(other) - edit.target)
        assert not is_right(edit, left.astype(np.float32))


def test_half_a_shape_recoloured_is_wrong() -> None:
    for edit, scene, after in wanted("recolour"):
        columns = np.arange(scene.width) < after.x + 0.16 * after.radius
        assert not is_right(edit, np.where(columns[None, :, None], edit.target, edit.source))


@pytest.mark.parametrize("kind", ["recolour", "move"])
def test_a_shape_that_shrank_on_the_way_is_wrong(kind: str) -> None:
    for edit, scene, after in wanted(kind):
        ground = scene.swap(after, None).render()
        small = with_shape(scene, ground, replace(after, radius=0.7 * after.radius))
        assert is_right(edit, with_shape(scene, ground, after))
        assert not is_right(edit, small)


def test_turned_into_another_shape_than_asked_is_wrong() -> None:
    for edit, scene, after in wanted("turn"):
        ground = scene.swap(after, None).render()
        for shape in set(SHAPES) - {after.shape}:
            assert not is_right(edit, with_shape(scene, ground, replace(after, shape=shape))), (shape, after.shape)


def test_added_twice_is_wrong() -> None:
    tried = 0
    for edit, scene, after in wanted("add"):
        for x, y in ((32.0, 32.0), (96.0, 96.0), (32.0, 96.0), (96.0, 32.0)):
            again = replace(after, x=x, y=y)
            if fits(scene, again) and shows(scene, again):
                tried += 1
                assert not is_right(edit, with_shape(scene, edit.target, again))
    assert tried > 2


@pytest.mark.parametrize("tone", TONES)
def test_a_shape_that_vanished_under_a_tone_is_wrong(tone: str) -> None:
    tried, toned = 0, TONES[tone]
    for number in CASES:
        scene = draw_scene(np.random.default_rng(number))
        edit = replace(held_out(tone, 201), source=scene.render(), target=toned(scene.render()))
        assert is_right(edit, edit.target)
        for item in scene.items:
            gone = toned(scene.swap(item, None).render())
            if np.abs(gone - edit.target).mean(axis=-1)[scene.mask(item) > 0.99].min() > 0.2:
                tried += 1
                assert not is_right(edit, gone)
    assert tried > 2


@pytest.mark.parametrize("kind", ["recolour", "sepia", "follow", "edges", "add", "hat"])
def test_a_picture_without_numbers_is_wrong(kind: str) -> None:
    edit = held_out(kind, 200)
    assert not is_right(edit, np.full_like(edit.target, np.nan))
