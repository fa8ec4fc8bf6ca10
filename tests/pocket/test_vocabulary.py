from __future__ import annotations

import re

import numpy as np
import pytest

from darkroom.models.vocabulary import Vocabulary, read_vocabulary
from darkroom.pocket.shipped import EDIT, MET, vocabulary
from darkroom.pocket.world.edits import draw_edit
from darkroom.pocket.world.portraits import draw_captioned
from darkroom.pocket.world.vocabulary import caption_words, words


@pytest.mark.parametrize("kind", MET)
def test_every_instruction_of_a_kind_that_was_met_is_within_the_vocabulary(kind: str) -> None:
    known = Vocabulary(frozenset(words(MET)), vocabulary().quoted)
    for seed in range(30):
        assert known.unknown(draw_edit(np.random.default_rng(seed), kind).instruction) == []


def test_the_shipped_weights_tell_the_words_that_they_were_taught() -> None:
    assert read_vocabulary(EDIT) == vocabulary()


def test_every_caption_is_within_the_vocabulary_and_no_word_of_it_for_nothing() -> None:
    captions = [draw_captioned(np.random.default_rng(seed))[1] for seed in range(300)]
    said = {word for caption in captions for word in re.findall(r"[a-z]+", caption)}
    assert said == set(caption_words())
