"""The pocket world's ground truth is exact, and every rule that judges agrees with it."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest

from darkroom.pocket.evaluate import HELD_OUT_SEED, held_out
from darkroom.pocket.judging.rules import closest_shape, is_right
from darkroom.pocket.world import VERSION
from darkroom.pocket.world.colours import NAMES, nearest, rgb
from darkroom.pocket.world.edits import KINDS, SHAPE_EDITS, draw_edit, reverse
from darkroom.pocket.world.photos import HELD_OUT, TRAINING
from darkroom.pocket.world.phrases import PHRASES
from darkroom.pocket.world.scenes import Item, Scene, draw_scene, place_near_middle
from darkroom.pocket.world.shapes import ROUND, SHAPES, coverage

CASES = range(6)


# The previous frame that "follow" is given is soft and noisy on purpose.
@pytest.mark.parametrize("kind", sorted(set(KINDS) - {"follow", "follow people"}))
def test_an_edit_changes_nothing_outside_its_mask_and_something_inside(kind: str) -> None:
    for case in CASES:
        edit = draw_edit(np.random.default_rng(case), kind)
        difference = np.abs(edit.source - edit.target)
        assert difference[~edit.mask].max(initial=0) < 1e-6
        assert difference[edit.mask].max() > 0.02


@pytest.mark.parametrize("kind", KINDS)
def test_the_exact_target_is_right_and_the_untouched_source_is_not(kind: str) -> None:
    for case in CASES:
        edit = held_out(kind, case)
        assert is_right(edit, edit.target)
        if np.abs(edit.source - edit.target).mean() > 0.02:
            assert not is_right(edit, edit.source)


@pytest.mark.parametrize("kind", SHAPE_EDITS)
def test_an_edit_that_also_ruins_the_rest_is_wrong(kind: str) -> None:
    for case in CASES:
        edit = held_out(kind, case)
        ruined = np.where(edit.mask[..., None], edit.target, np.roll(edit.source, 20, axis=1) * 0.5)
        assert not is_right(edit, ruined.astype(np.float32))


@pytest.mark.parametrize("kind", sorted(set(SHAPE_EDITS) - {"background", "remove"}))
def test_what_undoes_an_edit_leads_from_its_target_to_its_source(kind: str) -> None:
    for case in CASES:
        rng = np.random.default_rng(case)
        edit = draw_edit(rng, kind)
        undone = reverse(rng, edit)
        if kind == "turn" and undone is None:  # into a round shape, which does not tell how the other was turned
            assert edit.after is not None
            assert edit.after.shape in ROUND
            continue
        assert undone is not None
        assert undone.source is edit.target
        assert undone.target is edit.source


def test_edits_are_drawn_from_their_seed_alone() -> None:
    for kind in KINDS:
        one, other = (draw_edit(np.random.default_rng(9), kind) for _ in range(2))
        assert one.instruction == other.instruction
        assert np.array_equal(one.source, other.source)
        assert np.array_equal(one.target, other.target)


@pytest.mark.parametrize(("width", "height"), [(192, 128), (128, 192)])
def test_edits_come_in_other_aspects_and_are_judged_there(width: int, height: int) -> None:
    for kind in KINDS:
        edit = draw_edit(np.random.default_rng(3), kind, width=width, height=height)
        assert edit.source.shape == edit.target.shape == (height, width, 3)
        assert edit.mask.shape == (height, width)
        assert is_right(edit, edit.target)


@pytest.mark.parametrize("shapes", [1, 2, 3, 4])
def test_scenes_have_as_many_shapes_as_asked_and_one_of_them_is_meant(shapes: int) -> None:
    for case in CASES:
        edit = draw_edit(np.random.default_rng(case), "recolour", shapes=shapes)
        assert edit.scene is not None
        assert len(edit.scene.items) == shapes
        named = [item for item in edit.scene.items if item.shape in edit.instruction.lower()]
        assert named == [edit.after]


def test_a_number_of_shapes_that_finds_no_room_is_refused() -> None:
    with pytest.raises(ValueError, match="shapes must be 1 to 4"):
        draw_scene(np.random.default_rng(0), shapes=5)


def test_instructions_name_what_they_change() -> None:
    for kind in ("recolour", "turn", "move", "add"):
        for case in CASES:
            edit = draw_edit(np.random.default_rng(case), kind)
            item = edit.before or edit.after
            assert item is not None
            assert item.shape in edit.instruction.lower()


def test_every_kind_has_phrasings_and_held_out_cases_are_not_training_ones() -> None:
    assert set(PHRASES) == set(KINDS)
    assert not set(HELD_OUT) & set(TRAINING)
    assert HELD_OUT_SEED > 10_000


def test_shapes_of_a_scene_differ_and_never_touch() -> None:
    for seed in range(30):
        scene = draw_scene(np.random.default_rng(seed))
        masks = [scene.mask(item) for item in scene.items]
        assert len({item.shape for item in scene.items}) == len(scene.items)
        assert np.max(np.sum(masks, axis=0)) <= 1.001


def test_an_added_shape_stands_as_near_the_middle_as_there_is_room() -> None:
    grey = np.full((128, 128, 3), 0.5, dtype=np.float32)
    added = place_near_middle(Scene(grey, ()), "square", "red", 18.0)
    assert added == Item("square", "red", 64.0, 64.0, 18.0)
    # In the middle there is one already: above it is the first of four places that are equally near.
    beside = place_near_middle(Scene(grey, (Item("circle", "white", 64, 74, 9),)), "square", "red", 18.0)
    assert beside == Item("square", "red", 64.0, 32.0, 18.0)
    nearly = Scene(grey, (Item("circle", "white", 64, 96, 9),))
    assert place_near_middle(nearly, "square", "red", 18.0) is None
    full = Scene(grey, (Item("circle", "red", 64, 64, 55),))
    assert place_near_middle(full, "square", "white", 18.0) is None


def test_a_world_that_draws_something_else_has_another_version() -> None:
    """Where this fails and the change is meant, raise VERSION: folders of a training then draw their examples anew."""
    told = []
    for kind in KINDS:
        edit = draw_edit(np.random.default_rng(11), kind)
        for item in (edit.before, edit.after):
            told.append(
                f"{item.shape} {item.colour} {item.x:.2f} {item.y:.2f} {item.radius:.2f}" if item else "nothing"
            )
        told.append(edit.instruction)
    assert (VERSION, hashlib.sha256("\n".join(told).encode()).hexdigest()[:16]) == (4, "44a4a583fdb5c12b")


def test_what_nothing_can_tell_is_not_asked_for() -> None:
    for case in range(30):
        edit = draw_edit(np.random.default_rng(case), "turn")
        assert edit.before is not None
        assert edit.after is not None
        assert edit.after.degrees == (0 if edit.before.shape in ROUND else edit.before.degrees)


def test_a_drawn_shape_is_read_back_as_itself() -> None:
    for shape in SHAPES:
        assert closest_shape(coverage(shape, 60.3, 66.8, 20, 4, 128, 128) > 0.5) == shape


def test_every_named_colour_is_nearest_to_itself() -> None:
    assert [nearest(rgb(name)) for name in NAMES] == list(NAMES)
