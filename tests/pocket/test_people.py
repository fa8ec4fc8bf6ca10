"""People are the same in every view, and edits of what they wear are exact and can be judged."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
import pytest

from darkroom.pocket.judging.faces import read_person
from darkroom.pocket.judging.rules import is_right
from darkroom.pocket.world.colours import NAMES
from darkroom.pocket.world.edits import draw_edit
from darkroom.pocket.world.people import HAIRS, SKINS, View, draw_person, draw_view, layer, paint
from darkroom.pocket.world.portraits import PORTRAIT_EDITS, draw_portrait

GROUND = np.full((128, 128, 3), 0.5, dtype=np.float32)


def test_a_person_moves_with_the_view() -> None:
    person = draw_person(np.random.default_rng(0))
    here = layer(person, View(60, 60, 30), 128, 128)[1]
    there = layer(person, View(67, 64, 30), 128, 128)[1]
    # Lines that leave the picture are rounded at its border.
    assert np.abs(here[:-4, :-7] - there[4:, 7:]).mean() < 1e-3


def test_light_is_the_gain_of_the_whole_picture() -> None:
    person = draw_person(np.random.default_rng(1))
    view = View(64, 60, 32)
    dim = paint(person, replace(view, light=0.9), GROUND)
    assert np.allclose(dim, 0.9 * paint(person, view, GROUND), atol=1e-6)


def test_views_show_the_whole_head() -> None:
    for seed in range(20):
        rng = np.random.default_rng(seed)
        person = replace(draw_person(rng), cut="curly", hat="red")
        for width, height in ((128, 128), (192, 128), (128, 192)):
            view = draw_view(rng, width, height)
            assert view.size <= view.x <= width - view.size
            assert 1.3 * view.size <= view.y <= height - view.size
            assert layer(person, view, width, height)[1][0].max() < 1


def test_a_caption_names_every_attribute() -> None:
    for seed in range(20):
        person = draw_person(np.random.default_rng(seed))
        words = person.caption().replace(",", "").split()
        assert {person.skin, person.eyes, person.shirt} <= set(words)
        assert ("glasses" in words) == person.glasses
        assert ("hat" in words) == (person.hat is not None)
        assert {"bald"} <= set(words) if person.cut == "bald" else {person.cut, person.hair} <= set(words)


def test_the_same_person_can_be_drawn_again_elsewhere() -> None:
    rng = np.random.default_rng(3)
    person = draw_person(rng)
    portraits = [draw_portrait(rng, person=person) for _ in range(4)]
    assert {portrait.person for portrait in portraits} == {person}
    assert len({portrait.view for portrait in portraits}) == 4


def test_skin_and_hair_colours_can_be_told_apart() -> None:
    for palette in (SKINS, HAIRS):
        colours = np.array(list(palette.values()))
        distances = np.linalg.norm(colours[:, None] - colours[None], axis=-1) + 9 * np.eye(len(colours))
        assert distances.min() > 0.15


@pytest.mark.parametrize("kind", PORTRAIT_EDITS)
def test_soft_and_slightly_shifted_results_are_right_and_nothing_or_another_colour_is_not(kind: str) -> None:
    for case in range(8):
        edit = draw_edit(np.random.default_rng((6, case)), kind)
        assert is_right(edit, edit.target)
        assert is_right(edit, np.asarray(cv2.GaussianBlur(edit.target, (0, 0), 0.7)))
        assert is_right(edit, np.where(edit.mask[..., None], np.roll(edit.target, 1, axis=1), edit.target))
        assert not is_right(edit, edit.source)
        assert not is_right(edit, (0.6 * edit.source + 0.4 * edit.target).astype(np.float32))
        if edit.colour is not None:
            other = NAMES[(NAMES.index(edit.colour) + 3) % len(NAMES)]
            assert not is_right(replace(edit, colour=other), edit.target)


@pytest.mark.parametrize("kind", PORTRAIT_EDITS)
def test_another_person_with_the_right_thing_is_wrong(kind: str) -> None:
    for case in range(4):
        edit = draw_edit(np.random.default_rng((7, case)), kind)
        stranger = np.where(edit.mask[..., None], edit.target, edit.source[:, ::-1])
        assert not is_right(edit, stranger)


@pytest.mark.parametrize("seed", [0, 4, 5, 8])
def test_a_person_is_read_back_from_a_soft_and_noisy_picture(seed: int) -> None:
    rng = np.random.default_rng(seed)
    portrait = draw_portrait(rng)
    soft = cv2.GaussianBlur(portrait.render(), (0, 0), 0.8) + rng.normal(0, 0.02, (128, 128, 3))
    view = portrait.view
    expected = View(view.x + 4, view.y - 4, 1.06 * view.size)
    person, found, difference = read_person(np.clip(soft, 0, 1).astype(np.float32), expected)
    hair = portrait.person.hair if portrait.person.cut == "bald" else person.hair
    assert replace(person, hair=hair) == portrait.person
    assert abs(found.x - view.x) < 2
    assert difference < 0.06


def test_where_nobody_is_the_difference_says_so() -> None:
    noise = np.random.default_rng(1).random((128, 128, 3)).astype(np.float32)
    assert read_person(noise, View(64, 60, 32))[2] > 0.1
