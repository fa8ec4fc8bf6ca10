"""What the flow stage learns from: sets of examples, each of one size and number of references."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np

from darkroom.pocket.evaluate import PORTRAIT
from darkroom.pocket.world.colours import Pixels
from darkroom.pocket.world.edit import Mask
from darkroom.pocket.world.edits import Edit, draw_edit, reverse
from darkroom.pocket.world.lettering import Lettering
from darkroom.pocket.world.portraits import PORTRAIT_EDITS, draw_captioned
from darkroom.pocket.world.scenes import Item

# How often each kind is drawn: the hard ones more often; undoing adds to bigger, smaller, remove, move, turn, recolour.
WEIGHTS = {
    "recolour": 2.0,
    "background": 2.0,
    "remove": 1.0,
    "bigger": 1.2,
    "smaller": 1.2,
    "move": 1.4,
    "turn": 2.8,
    "add": 2.2,
    "black and white": 0.8,
    "sepia": 1.0,
    "brighter": 1.1,
    "darker": 0.8,
    "inverted": 1.0,
}
DOT_WEIGHTS = {"dot": 1.0, "dot background": 1.5, "dot move": 1.5}
WORD_WEIGHTS = {"write": 1.0, "reword": 1.0}
# 2511 edits at an area, whatever the picture's form: two forms besides the square, of about its area.
WIDE = (160, 96)
TALL = (96, 160)


@dataclass(frozen=True)
class Example:
    """What training takes of an edit of any sort: pictures [H, W, 3] in [0, 1], `mask` [H, W] bool.

    `looked`: what the vision tower sees of the sources. `items`: the shapes in the only source, None where unknown.
    `lettering`: the word that the target shows, None where nobody knows of one.
    """

    kind: str
    instruction: str
    sources: tuple[Pixels, ...]
    target: Pixels
    mask: Mask
    looked: tuple[Pixels, ...]
    items: tuple[Item, ...] | None = None
    lettering: Lettering | None = None

    @classmethod
    def of(cls, edit: Edit, items: tuple[Item, ...] | None = None) -> Example:
        """`edit` as an example; `items` of its source where the edit itself cannot tell."""
        looked = edit.sources if edit.sight_large is None else (edit.sight_large,)
        known = items if edit.scene is None else items_before(edit)
        return cls(edit.kind, edit.instruction, edit.sources, edit.target, edit.mask, looked, known, edit.lettering)


Draw = Callable[[np.random.Generator], Iterator[Example]]


def items_before(edit: Edit) -> tuple[Item, ...] | None:
    """The shapes in the source; None where the edit does not know its scene."""
    if edit.scene is None:
        return None
    kept = tuple(item for item in edit.scene.items if item != edit.after)
    return kept if edit.before is None else (*kept, edit.before)


def _edits(rng: np.random.Generator, weights: dict[str, float], width: int, height: int) -> Iterator[Example]:
    """An edit, and the one that undoes it."""
    chances = np.array(list(weights.values()))
    edit = draw_edit(rng, str(rng.choice(list(weights), p=chances / chances.sum())), width=width, height=height)
    yield Example.of(edit)
    undone = reverse(rng, edit)
    if undone is not None:
        assert edit.scene is not None
        yield Example.of(undone, edit.scene.items)


def _one(rng: np.random.Generator, kind: str) -> Iterator[Example]:
    yield Example.of(draw_edit(rng, kind))


def _portrait(rng: np.random.Generator) -> Iterator[Example]:
    yield Example.of(draw_edit(rng, str(rng.choice(list(PORTRAIT_EDITS)))))


def _captioned(rng: np.random.Generator) -> Iterator[Example]:
    picture, caption = draw_captioned(rng)
    yield Example(PORTRAIT, caption, (), picture, np.ones(picture.shape[:2], dtype=np.bool_), ())


SETS: dict[str, Draw] = {
    "pairs": partial(_edits, weights=WEIGHTS, width=128, height=128),
    "follows": partial(_one, kind="follow"),
    "dots": partial(_edits, weights=DOT_WEIGHTS, width=128, height=128),
    "portraits": _portrait,
    "captions": _captioned,
    "wide": partial(_edits, weights=WEIGHTS, width=WIDE[0], height=WIDE[1]),
    "tall": partial(_edits, weights=WEIGHTS, width=TALL[0], height=TALL[1]),
    "edges": partial(_one, kind="edges"),
    "people_follows": partial(_one, kind="follow people"),
    "words": partial(_edits, weights=WORD_WEIGHTS, width=128, height=128),
}


# The kinds of example in each set.
TEACHES: Mapping[str, tuple[str, ...]] = {
    "pairs": tuple(WEIGHTS),
    "follows": ("follow",),
    "dots": tuple(DOT_WEIGHTS),
    "portraits": tuple(PORTRAIT_EDITS),
    "captions": (PORTRAIT,),
    "wide": tuple(WEIGHTS),
    "tall": tuple(WEIGHTS),
    "edges": ("edges",),
    "people_follows": ("follow people",),
    "words": tuple(WORD_WEIGHTS),
}


def draw_set(name: str, seed: int, count: int) -> Iterator[Example]:
    """`count` draws of the set, each from its own seed; undoing makes some of them two examples."""
    for number in range(count):
        yield from draw_one(name, seed, number)


def draw_one(name: str, seed: int, number: int) -> list[Example]:
    """Draw `number` of the set, whatever came before: an example, or two where one undoes the other."""
    # "pairs" came first; its seeds are those of the weights that were trained then.
    place = () if name == "pairs" else (4 + list(SETS).index(name),)
    return list(SETS[name](np.random.default_rng((seed, *place, number))))
