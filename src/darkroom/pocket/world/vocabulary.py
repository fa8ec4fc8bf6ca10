"""The words of the pocket world: what a family that was taught some kinds of edit can have understood."""

import re
from collections.abc import Collection

from darkroom.pocket.world.colours import NAMES
from darkroom.pocket.world.people import CUTS, EYES, HAIRS, SKINS, Person
from darkroom.pocket.world.phrases import DIRECTIONS, PHRASES
from darkroom.pocket.world.shapes import SHAPES


def words(kinds: Collection[str]) -> list[str]:
    """Every word of the phrasings of `kinds`, with the names of shapes, colours and directions; sorted, lower case."""
    said = " ".join(phrase for kind in kinds for phrase in PHRASES[kind])
    plain = re.sub(r"\{\w+\}", " ", said)
    ways = DIRECTIONS if "{direction}" in said else ()
    # "an orange star".
    article = ("an",) if "a {colour}" in said else ()
    return sorted({*re.findall(r"[a-z]+", plain.lower()), *NAMES, *SHAPES, *ways, *article})


def caption_words() -> list[str]:
    """Every word of the captions from which people are drawn (`portraits.draw_captioned`); sorted."""
    people = [Person("light", "red", cut, "blue", "red", glasses=True, hat="red").caption() for cut in CUTS]
    said = " ".join(["a portrait of", *people, "in front of an orange background"])
    return sorted({*re.findall(r"[a-z]+", said), *NAMES, *SKINS, *HAIRS, *EYES})
