"""The pocket world's rulers of a sweep: what a prompt names, and what of it a picture shows."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from darkroom.errors import ModelNotReady
from darkroom.models.identity import POCKET_IDENTITY
from darkroom.models.likeness import _GROUNDS, PocketRulers, background, prompted
from darkroom.pocket.world.colours import COLOURS, NAMES, rgb
from darkroom.pocket.world.grounds import flat
from darkroom.pocket.world.people import Person, can_be_told_apart, draw_person, draw_view
from darkroom.pocket.world.portraits import Portrait, draw_portrait

CPU = torch.device("cpu")


def image(pixels: np.ndarray) -> Image.Image:
    return Image.fromarray(np.round(pixels * 255).astype(np.uint8))


def views(person: Person, seed: int, count: int = 3) -> list[Image.Image]:
    rngs = [np.random.default_rng((900_020, seed, number)) for number in range(count)]
    return [image(draw_portrait(rng, person=person).render()) for rng in rngs]


@pytest.fixture(scope="module")
def rulers() -> PocketRulers:
    assert POCKET_IDENTITY.is_file()
    return PocketRulers(CPU)


def test_the_colours_of_grounds_are_the_worlds() -> None:
    assert _GROUNDS == COLOURS


def test_every_attribute_of_a_caption_is_found_in_it() -> None:
    for seed in range(60):
        person = draw_person(np.random.default_rng((900_021, seed)))
        named = prompted(f"a portrait of {person.caption()} in front of an orange background")
        expected = {"skin": person.skin, "eyes": person.eyes, "shirt": person.shirt, "cut": person.cut,
                    "background": "orange"}  # fmt: skip
        expected |= {} if person.cut == "bald" else {"hair": person.hair}
        expected |= {"glasses": "yes"} if person.glasses else {}
        expected |= {"hat": person.hat} if person.hat is not None else {}
        assert named == expected
    assert prompted("a portrait of person person in a library") == {}
    assert prompted("a person without glasses and without a hat") == {"glasses": "no", "hat": "none"}


@pytest.mark.parametrize("name", NAMES)
def test_the_background_is_read_behind_a_person(name: str) -> None:
    rng = np.random.default_rng(3)
    while not can_be_told_apart(person := draw_person(rng), rgb(name)):
        pass
    picture = image(Portrait(person, draw_view(rng), flat(rgb(name), 128, 128)).render())
    assert background(picture) == name


def test_a_person_is_more_like_themselves_than_like_another(rulers: PocketRulers) -> None:
    people = [draw_person(np.random.default_rng((900_022, seed))) for seed in range(12)]
    albums = [views(person, seed) for seed, person in enumerate(people)]
    own = [rulers.identity(album[0], rulers.person(album[1:])) for album in albums]
    other = [rulers.identity(a[0], rulers.person(b[1:])) for a, b in zip(albums, albums[1:] + albums[:1], strict=True)]
    assert np.mean(own) > 0.85
    assert np.mean(other) < 0.65


def test_adherence_is_the_share_of_what_was_asked_for(rulers: PocketRulers) -> None:
    person = Person(skin="light", hair="black", cut="long", eyes="blue", shirt="red", glasses=True)
    rng = np.random.default_rng(5)
    picture = image(Portrait(person, draw_view(rng), flat(rgb("green"), 128, 128)).render())
    assert rulers.adherence(picture, "a person with glasses in front of a green background") == 1.0
    assert rulers.adherence(picture, "a person with glasses in front of a purple background") == 0.5
    assert rulers.adherence(picture, "somebody") is None


def test_a_missing_encoder_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelNotReady, match="identity encoder"):
        PocketRulers(CPU, tmp_path / "nothing.safetensors")
