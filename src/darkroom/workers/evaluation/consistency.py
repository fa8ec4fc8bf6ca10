"""Several pictures of one subject, edited alike: does the subject still look the same in all of them?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from itertools import combinations

import numpy as np

from darkroom.pocket.world.colours import NAMES, nearest
from darkroom.pocket.world.edit import Mask
from darkroom.pocket.world.phrases import phrase
from darkroom.pocket.world.scenes import Item, Scene, draw_scene, fits, shows
from darkroom.pocket.world.shapes import SHAPES
from darkroom.technique.likeness import Pixels
from darkroom.workers.evaluation.case import Case, Ruler, Scores, Shot, Suite
from darkroom.workers.evaluation.scenes import BASE, scaled

RULERS = (
    Ruler("subject_difference", "mean absolute difference of the subject's pixels between its pictures", "lower"),
    Ruler("followed", "share of the pictures in which the subject has the colour asked for"),
)
SEED = 910_003
PICTURES = 3
"""Of each subject."""


def consistency(cases: int, scale: int) -> Suite:
    """One subject a case: the same shape and size, in scenes of their own, with one instruction."""
    drawn = tuple(_case(np.random.default_rng((SEED, number)), scale) for number in range(cases))
    return Suite("consistency", "Consistency over several images", RULERS, drawn)


def _case(rng: np.random.Generator, scale: int) -> Case:
    shape = str(rng.choice(SHAPES))
    before, after = (str(name) for name in rng.choice(NAMES, size=2, replace=False))
    # A whole number of pixels, so that the subject's pixels can be laid over each other.
    subject = Item(shape, before, 0, 0, int(rng.integers(14, 21)))
    text = phrase(rng, "recolour", shape=shape, colour=after)
    shots: list[Shot] = []
    masks: list[tuple[Mask, tuple[int, int]]] = []
    while len(shots) < PICTURES:
        placed = _placed(rng, subject, after)
        if placed is None:
            continue
        scene, item = placed
        large = scaled(scene, scale)
        thing = large.items[-1]
        shots.append(Shot(large.render(), text, large.swap(thing, replace(thing, colour=after)).render()))
        masks.append((large.mask(thing) > 0.99, _corner(item, scale)))
    return Case(tuple(shots), partial(judge, masks, round(2.5 * subject.radius) * scale, after))


def _placed(rng: np.random.Generator, subject: Item, after: str) -> tuple[Scene, Item] | None:
    """A scene with the subject last; None where it finds no room."""
    scene = draw_scene(rng, shapes=int(rng.integers(1, 3)))
    reach = int(subject.radius * 1.25) + 1
    x, y = (int(rng.integers(reach, BASE - reach)) for _ in range(2))
    item = replace(subject, x=x, y=y)
    others = [other for other in scene.items if other.shape != subject.shape]
    scene = replace(scene, items=tuple(others))
    if not (fits(scene, item) and shows(scene, item) and shows(scene, replace(item, colour=after))):
        return None
    return replace(scene, items=(*scene.items, item)), item


def _corner(item: Item, scale: int) -> tuple[int, int]:
    """(row, column) of the subject's upper left, which may lie outside the picture."""
    reach = round(1.25 * item.radius)
    return int(item.y - reach) * scale, int(item.x - reach) * scale


def judge(masks: list[tuple[Mask, tuple[int, int]]], side: int, colour: str, results: Sequence[Pixels]) -> Scores:
    """The subject's own pixels laid over each other, pair by pair, and its median colour in each picture.

    masks: in each picture, the pixels that are the subject's alone, and the (row, column) of its upper left. side: of
    its square, in pixels.
    """
    cut = [_cut(result, mask, corner, side) for result, (mask, corner) in zip(results, masks, strict=True)]
    gaps = [
        float(np.abs(one - other)[shared & also].mean())
        for (one, shared), (other, also) in combinations(cut, 2)
    ]  # fmt: skip
    right = [nearest(np.median(picture[mask], axis=0)) == colour for picture, mask in cut]
    return {"subject_difference": float(np.mean(gaps)), "followed": float(np.mean(right))}


def _cut(picture: Pixels, mask: Mask, corner: tuple[int, int], side: int) -> tuple[Pixels, Mask]:
    """The square at `corner` of picture and mask; beyond the picture nothing is the subject's."""
    room = side
    row, column = corner[0] + room, corner[1] + room
    padded = np.pad(picture, ((room, room), (room, room), (0, 0)))
    inside = np.pad(mask, room)
    return padded[row : row + side, column : column + side], inside[row : row + side, column : column + side]
