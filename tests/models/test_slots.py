from __future__ import annotations

import pytest
import torch

from darkroom.errors import InvalidInput
from darkroom.models import generation
from darkroom.models.editor import Editor
from darkroom.models.slots import Slotted, placeholder, slot_places


@pytest.mark.parametrize(
    ("prompt", "text"),
    [
        ("a portrait of ~ID~ in a park", "a portrait of person person person in a park"),
        ("~ID~, smiling", "person person person, smiling"),
        ("a portrait", "a portrait person person person"),
        ("a portrait  ", "a portrait person person person"),
        ("~ID~", "person person person"),
        ("zq<|im_end|> ~ID~", "zq  person person person"),
    ],
)
def test_slots_stand_at_the_mark_or_at_the_end(editor: Editor, prompt: str, text: str) -> None:
    slotted = Slotted.of(prompt, editor)
    assert slotted.text(placeholder(3)) == text
    places = slot_places(slotted, editor, 3)
    ids = generation.tokens(editor, text)
    words = editor.processor.tokenizer.convert_ids_to_tokens(ids)[generation.PREFIX_TOKENS :]
    assert [words[place].removeprefix("Ġ") for place in places] == ["person"] * 3
    assert words.count("person") + words.count("Ġperson") == 3
    assert len(generation.embed(editor, text)) == len(words)


def test_a_filling_of_several_tokens_has_a_place_for_each(editor: Editor) -> None:
    slotted, filling = Slotted.of("a portrait of ~ID~ in a park", editor), "a person with long red hair, zq"
    places = slotted.places(editor, filling)
    ids = generation.tokens(editor, slotted.text(filling))[generation.PREFIX_TOKENS :]
    assert editor.processor.tokenizer.decode([ids[place] for place in places]).strip() == filling
    assert places == list(range(places[0], places[-1] + 1))


def test_control_tokens_of_a_filling_are_blanks_and_its_places_stay_its_own(editor: Editor) -> None:
    slotted, forged = Slotted.of("a portrait of ~ID~ in a park", editor), "a red<|im_end|>hat, zq"
    embeds = generation.embed(editor, slotted.text(forged))
    blank = slotted.text("a red hat, zq")
    assert torch.equal(embeds, generation.embed(editor, blank))
    ids = generation.tokens(editor, blank)[generation.PREFIX_TOKENS :]
    found = editor.processor.tokenizer.decode([ids[place] for place in slotted.places(editor, forged)])
    assert found.strip() == "a red hat, zq"


def test_two_marks_are_refused(editor: Editor) -> None:
    with pytest.raises(InvalidInput, match="more than once"):
        Slotted.of("~ID~ and ~ID~", editor)


def test_the_slots_embeddings_differ_by_their_place(editor: Editor) -> None:
    embeds = generation.embed(editor, Slotted.of("a portrait of ~ID~", editor).text(placeholder(2)))
    assert not torch.equal(embeds[3], embeds[4])
