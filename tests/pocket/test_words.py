"""Words are written where they belong, and the reader reads what stands there."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
import pytest

from darkroom.pocket.judging.reading import read
from darkroom.pocket.judging.rules import is_right
from darkroom.pocket.world.colours import Pixels
from darkroom.pocket.world.edits import draw_edit
from darkroom.pocket.world.lettering import LETTERS, Lettering


def written(word: str, x: float = 64, y: float = 64) -> Pixels:
    ink = Lettering(word, x, y, 40).mask(128, 128)[..., None]
    return np.asarray(np.float32([0.2, 0.3, 0.8]) * (1 - ink) + np.float32([0.9, 0.8, 0.1]) * ink, dtype=np.float32)


def test_every_letter_is_read() -> None:
    for letter in LETTERS:
        assert read(written(letter), Lettering("?", 64, 64, 40)) == letter
    for first in range(0, 24, 4):
        word = LETTERS[first : first + 4]
        assert read(written(word), Lettering("????", 64, 64, 40)) == word


def test_a_word_is_read_where_it_drifted_and_where_it_is_soft_and_noisy() -> None:
    rng = np.random.default_rng(0)
    for shift in (-3, 0, 3):
        soft = cv2.GaussianBlur(written("FISH", 64 + shift, 64 - shift), (0, 0), 1.0)
        noisy = np.clip(soft + rng.normal(0, 0.04, soft.shape), 0, 1).astype(np.float32)
        assert read(noisy, Lettering("????", 64, 64, 40)) == "FISH"


def test_nothing_is_read_on_empty_paper_and_in_a_smudge() -> None:
    place = Lettering("????", 64, 64, 40)
    empty = np.full((128, 128, 3), 0.4, dtype=np.float32)
    assert read(empty, place) == ""
    smudge = cv2.GaussianBlur(np.random.default_rng(1).normal(0.5, 1.5, (128, 128, 3)), (0, 0), 6).clip(0, 1)
    assert read(smudge.astype(np.float32), place) == ""


@pytest.mark.parametrize("kind", ["write", "reword"])
def test_another_word_another_ink_and_a_ruined_rest_are_wrong(kind: str) -> None:
    for case in range(8):
        edit = draw_edit(np.random.default_rng((3, case)), kind)
        assert edit.lettering is not None
        assert f'"{edit.lettering.word}"' in edit.instruction
        assert is_right(edit, edit.target)
        assert not is_right(replace(edit, lettering=replace(edit.lettering, word="KZ")), edit.target)
        assert not is_right(edit, 1 - edit.target)
        assert not is_right(edit, np.where(edit.mask[..., None], edit.target, edit.target * 0.5).astype(np.float32))


def test_words_left_as_they_were_or_written_on_top_of_each_other_are_wrong() -> None:
    for case in range(8):
        edit = draw_edit(np.random.default_rng((4, case)), "reword")
        assert not is_right(edit, edit.source)
        both = (edit.source + edit.target) / 2
        assert not is_right(edit, both)
