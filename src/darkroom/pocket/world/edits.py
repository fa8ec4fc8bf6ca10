"""Edits with exact ground truth: a source, an instruction, the target, and where the two may differ."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import numpy as np

from darkroom.pocket.world.colours import NAMES, Pixels, rgb
from darkroom.pocket.world.edges import edge_map
from darkroom.pocket.world.edit import Edit as Edit
from darkroom.pocket.world.edit import swapped
from darkroom.pocket.world.follow import draw_follow
from darkroom.pocket.world.grounds import flat
from darkroom.pocket.world.marks import (
    draw_by_arrow,
    draw_by_dot,
    draw_by_label,
    draw_ground_by_dot,
    draw_move_by_dot,
)
from darkroom.pocket.world.photos import crop
from darkroom.pocket.world.phrases import DIRECTIONS, phrase
from darkroom.pocket.world.portraits import PORTRAIT_EDITS, draw_portrait_edit
from darkroom.pocket.world.scenes import Item, Scene, draw_scene, fits, moved, place_near_middle, shows
from darkroom.pocket.world.shapes import ROUND, SHAPES
from darkroom.pocket.world.tones import TONES
from darkroom.pocket.world.writing import draw_rewording, draw_writing

GROWTH = 1.5
ADDED_RADIUS = 18.0

Draw = Callable[[np.random.Generator, Scene], Edit | None]


def draw_edit(
    rng: np.random.Generator,
    kind: str,
    held_out: bool = False,
    photo: float = 0.5,
    width: int = 128,
    height: int = 128,
    shapes: int | None = None,
) -> Edit:
    """A random edit of `kind`, of `width` × `height` pixels.

    Tones and edges take a photo with probability `photo`, from the held-out ones if asked. `shapes`: in scenes with
    so many shapes, 1 to 4, of which the words mean one; without it as many as `draw_scene` pleases.
    """
    if kind in WHOLE_EDITS:
        of_photo = rng.random() < photo
        source = crop(rng, width, height, held_out) if of_photo else draw_scene(rng, width, height).render()
        everywhere = np.ones(source.shape[:2], dtype=np.bool_)
        return Edit(kind, phrase(rng, kind), source, WHOLE_EDITS[kind](source), everywhere)
    if kind in OTHER_EDITS:
        return OTHER_EDITS[kind](rng, width, height)
    while True:
        edit = SHAPE_EDITS[kind](rng, draw_scene(rng, width, height, shapes))
        if edit is not None:
            return edit


def _recolour(rng: np.random.Generator, scene: Scene) -> Edit | None:
    item = _any(rng, scene)
    after = replace(item, colour=_other(rng, NAMES, item.colour))
    if not shows(scene, after):
        return None
    words = {"shape": item.shape, "colour": after.colour}
    return swapped("recolour", phrase(rng, "recolour", **words), scene, item, after)


def _background(rng: np.random.Generator, scene: Scene) -> Edit | None:
    colour = str(rng.choice(NAMES))
    target = replace(scene, ground=flat(rgb(colour), scene.width, scene.height))
    changed = np.abs(target.ground - scene.ground).mean()
    if changed < 0.1 or not all(shows(target, item) for item in scene.items):
        return None
    inside = np.max([scene.mask(item) for item in scene.items], axis=0)
    text = phrase(rng, "background", colour=colour)
    return Edit("background", text, scene.render(), target.render(), inside < 1, colour=colour, scene=target)


def _remove(rng: np.random.Generator, scene: Scene) -> Edit | None:
    item = _any(rng, scene)
    return swapped("remove", phrase(rng, "remove", shape=item.shape), scene, item, None)


def _bigger(rng: np.random.Generator, scene: Scene) -> Edit | None:
    item = _any(rng, scene)
    after = replace(item, radius=item.radius * GROWTH)
    if not fits(scene.swap(item, None), after):
        return None
    return swapped("bigger", phrase(rng, "bigger", shape=item.shape), scene, item, after)


def _smaller(rng: np.random.Generator, scene: Scene) -> Edit | None:
    item = _any(rng, scene)
    if item.radius < 16:
        return None
    after = replace(item, radius=item.radius / GROWTH)
    return swapped("smaller", phrase(rng, "smaller", shape=item.shape), scene, item, after)


def _move(rng: np.random.Generator, scene: Scene) -> Edit | None:
    item = _any(rng, scene)
    direction = str(rng.choice(list(DIRECTIONS)))
    after = moved(scene, item, *DIRECTIONS[direction])
    if after is None:
        return None
    return swapped("move", phrase(rng, "move", shape=item.shape, direction=direction), scene, item, after)


def _turn(rng: np.random.Generator, scene: Scene) -> Edit | None:
    item = _any(rng, scene)
    present = {other.shape for other in scene.items}
    new = str(rng.choice([shape for shape in SHAPES if shape not in present]))
    # Nobody can see how a round shape is turned.
    after = replace(item, shape=new, degrees=0.0 if item.shape in ROUND else item.degrees)
    return swapped("turn", phrase(rng, "turn", shape=item.shape, new=new), scene, item, after)


def _add(rng: np.random.Generator, scene: Scene) -> Edit | None:
    present = {other.shape for other in scene.items}
    shape = str(rng.choice([shape for shape in SHAPES if shape not in present]))
    after = place_near_middle(scene, shape, str(rng.choice(NAMES)), ADDED_RADIUS)
    if after is None:
        return None
    text = phrase(rng, "add", shape=shape, colour=after.colour)
    return swapped("add", text, scene, None, after)


SHAPE_EDITS: dict[str, Draw] = {
    "recolour": _recolour,
    "background": _background,
    "remove": _remove,
    "bigger": _bigger,
    "smaller": _smaller,
    "move": _move,
    "turn": _turn,
    "add": _add,
}


# A function of the whole picture, which may be a photo.
WHOLE_EDITS: dict[str, Callable[[Pixels], Pixels]] = {**TONES, "edges": edge_map}


def _follow(kind: str, rng: np.random.Generator, width: int, height: int) -> Edit:
    drawn = draw_follow(rng, width, height, people=kind == "follow people")
    if not drawn.mask.any():  # nothing moved
        return _follow(kind, rng, width, height)
    *_, previous = drawn.sources
    return Edit(kind, drawn.instruction, previous, drawn.target, drawn.mask, pictures=drawn.sources)


def _portrait(kind: str, rng: np.random.Generator, width: int, height: int) -> Edit:
    return draw_portrait_edit(rng, kind, width, height)


OTHER_EDITS: dict[str, Callable[[np.random.Generator, int, int], Edit]] = {
    "write": draw_writing,
    "reword": draw_rewording,
    "dot": draw_by_dot,
    "label": draw_by_label,
    "arrow": draw_by_arrow,
    "follow": partial(_follow, "follow"),
    **{kind: partial(_portrait, kind) for kind in PORTRAIT_EDITS},
    "dot background": draw_ground_by_dot,
    "dot move": draw_move_by_dot,
    "follow people": partial(_follow, "follow people"),
}
# New ones at the end: a kind's place is part of its held-out seeds.
KINDS = (*SHAPE_EDITS, *WHOLE_EDITS, *OTHER_EDITS)


def _any(rng: np.random.Generator, scene: Scene) -> Item:
    return scene.items[rng.integers(len(scene.items))]


def _other(rng: np.random.Generator, names: tuple[str, ...], present: str) -> str:
    return str(rng.choice([name for name in names if name != present]))


def reverse(rng: np.random.Generator, edit: Edit) -> Edit | None:
    """The edit that undoes `edit`, with its own instruction; None where no instruction would say enough."""
    kind, words = _undoing(edit)
    if kind is None or edit.scene is None:
        return None
    return replace(
        edit,
        kind=kind,
        instruction=phrase(rng, kind, **words),
        source=edit.target,
        target=edit.source,
        before=edit.after,
        after=edit.before,
        colour=edit.before.colour if edit.before else None,
        scene=None,
    )


def _undoing(edit: Edit) -> tuple[str | None, dict[str, str]]:
    before, after = edit.before, edit.after
    # What decided an edit with a mark says nothing about the way back.
    if after is None or edit.sight is not None:
        return None, {}
    if edit.kind == "add":
        return "remove", {"shape": after.shape}
    assert before is not None
    if edit.kind == "turn" and after.shape in ROUND and before.shape not in ROUND:
        return None, {}  # nothing tells how the shape was turned
    if edit.kind == "move":
        opposite = (np.sign(before.x - after.x), np.sign(before.y - after.y))
        direction = next(name for name, step in DIRECTIONS.items() if step == opposite)
        return "move", {"shape": after.shape, "direction": direction}
    return {
        "recolour": ("recolour", {"shape": after.shape, "colour": before.colour}),
        "bigger": ("smaller", {"shape": after.shape}),
        "smaller": ("bigger", {"shape": after.shape}),
        "turn": ("turn", {"shape": after.shape, "new": before.shape}),
    }[edit.kind]
