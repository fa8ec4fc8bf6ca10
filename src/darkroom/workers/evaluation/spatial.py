"""Shapes that are to be moved: how far from the place meant they end, and whether they went that way at all."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import numpy as np

from darkroom.pocket.world.colours import rgb
from darkroom.pocket.world.edits import Edit, draw_edit
from darkroom.pocket.world.scenes import Item, Scene
from darkroom.technique.likeness import Pixels, centroid, nearer
from darkroom.workers.evaluation.case import Case, Ruler, Scores, Shot, Suite
from darkroom.workers.evaluation.scenes import largest, scaled

RULERS = (
    Ruler("centroid_error", "distance from where the shape should be, in sides of the picture; 1 without it", "lower"),
    Ruler("right_direction", "share that went the way asked, within 45°, and at least half as far"),
)
SEED = 910_001


def spatial(cases: int, scale: int) -> Suite:
    """Each case a scene of its own; `scale`: pixels for one of the world's."""
    drawn = tuple(_case(_draw(np.random.default_rng((SEED, number))), scale) for number in range(cases))
    return Suite("spatial", "Spatial reasoning", RULERS, drawn)


def _draw(rng: np.random.Generator) -> Edit:
    """A move of a shape whose colour nothing else in its scene has."""
    while True:
        edit = draw_edit(rng, "move")
        assert edit.scene is not None
        assert edit.after is not None
        others = [item.colour for item in edit.scene.items if item != edit.after]
        if edit.after.colour not in others:
            return edit


def _case(edit: Edit, scale: int) -> Case:
    assert edit.scene is not None
    assert edit.before is not None
    assert edit.after is not None
    target = scaled(edit.scene, scale)
    source = scaled(edit.scene.swap(edit.after, edit.before), scale)
    shot = Shot(source.render(), edit.instruction, target.render())
    return Case((shot,), partial(judge, target, _moved(edit.before, scale), _moved(edit.after, scale)))


def _moved(item: Item, scale: int) -> Item:
    return replace(item, x=item.x * scale, y=item.y * scale, radius=item.radius * scale)


def judge(target: Scene, before: Item, after: Item, results: Sequence[Pixels]) -> Scores:
    """By the largest patch that is nearer to the shape's colour than to the ground there and the other shapes' colours.

    Its centroid is compared with those of the same patch in exact renders of the place before and the place meant.
    """
    rest = target.swap(after, None)

    def place(picture: Pixels) -> tuple[float, float] | None:
        others = [target.ground, *(rgb(item.colour) for item in rest.items)]
        return centroid(largest(nearer(picture, rgb(after.colour), others)))

    start, meant = (place(replace(rest, items=(*rest.items, item)).render()) for item in (before, after))
    found = place(results[0])
    if found is None or start is None or meant is None:
        return {"centroid_error": 1.0, "right_direction": 0.0}
    asked = np.subtract(meant, start)
    went = np.subtract(found, start)
    along = float(went @ asked) / float(np.linalg.norm(asked))
    right = along >= 0.5 * np.linalg.norm(asked) and along >= np.cos(np.pi / 4) * np.linalg.norm(went)
    error = float(np.linalg.norm(np.subtract(found, meant))) / max(target.width, target.height)
    return {"centroid_error": min(1.0, error), "right_direction": float(right)}
