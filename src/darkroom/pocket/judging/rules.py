"""Whether an edit is right: it did what was asked, and nothing else. Every rule looks only at pixels.

"Ink" is where a picture is nearer to a colour than to the ground that lies there.
"""

import cv2
import numpy as np

from darkroom.pocket.judging.reading import read
from darkroom.pocket.world.colours import COLOURS, NAMES, Pixels, nearest, rgb
from darkroom.pocket.world.edits import Edit
from darkroom.pocket.world.lettering import Lettering
from darkroom.pocket.world.scenes import Item
from darkroom.pocket.world.shapes import SHAPES, coverage
from darkroom.pocket.world.tones import TONES

Mask = np.ndarray[tuple[int, ...], np.dtype[np.bool_]]

# Mean absolute difference outside the mask above which an edit has touched what it should not.
LEAK = 0.03
# Overlap (intersection over union) of the drawn shape with the wanted one.
OVERLAP = 0.7
# Mean absolute difference to the exact tone.
TONE_ERROR = 0.06
# What remains of a removed shape, as a share of the difference that it made.
REMAINS = 0.25
# What a mark decided is right as if words had said it.
JUDGED_AS = {"dot": "recolour", "label": "recolour", "arrow": "move"}


def is_right(edit: Edit, result: Pixels) -> bool:
    """Whether `result`, [H, W, 3] in [0, 1], is what `edit` asked for."""
    if edit.kind in TONES:
        return _has_tone(edit, result)
    if leak(edit, result) > LEAK or not _others_kept(edit, result):
        return False
    if edit.lettering is not None:
        return _says(edit, edit.lettering, result)
    kind = JUDGED_AS.get(edit.kind, edit.kind)
    if kind == "recolour":
        return _has_colour(edit, result)
    if kind == "background":
        return _has_ground(edit, result)
    if kind == "remove":
        return _is_gone(edit, result)
    return _is_added(edit, result) if kind == "add" else _is_drawn(edit, result)


def leak(edit: Edit, result: Pixels) -> float:
    """Mean absolute difference from the source where the edit may change nothing.

    0 for kinds that are judged otherwise: an added shape may stand anywhere free, and all that a new background
    leaves alone are the shapes, whose colours and forms `_others_kept` looks at one by one.
    """
    if edit.kind in ("add", "background"):
        return 0.0
    return float(np.abs(result - edit.source)[~edit.mask].mean())


def _others_kept(edit: Edit, result: Pixels) -> bool:
    """Every shape that was not meant still has its colour and its form; without a scene, `leak` says enough."""
    if edit.scene is None:
        return True
    return all(_is_there(edit, result, item) for item in edit.scene.items if item != edit.after)


def _is_there(edit: Edit, result: Pixels, item: Item) -> bool:
    assert edit.scene is not None
    mask = edit.scene.mask(item)
    same_colour = nearest(np.median(result[_shrunk(mask > 0.99)], axis=0)) == item.colour
    return same_colour and overlap(_ink(edit, result, item), mask > 0.5) >= OVERLAP


def _has_tone(edit: Edit, result: Pixels) -> bool:
    """Close to the exact tone, and half as far from it as the source was, unless the source already was that close."""
    left = float(np.abs(result - edit.target).mean())
    unedited = float(np.abs(edit.source - edit.target).mean())
    return left < min(TONE_ERROR, max(unedited / 2, TONE_ERROR / 3))


def _says(edit: Edit, lettering: Lettering, result: Pixels) -> bool:
    """The word is read back, and its strongest ink has the colour that it should have."""
    height, width = result.shape[:2]
    strong = lettering.mask(width, height) > 0.99
    same_ink = nearest(np.median(result[strong], axis=0)) == edit.colour
    return same_ink and read(result, lettering) == lettering.word


def _has_colour(edit: Edit, result: Pixels) -> bool:
    assert edit.after is not None
    assert edit.scene is not None
    core = _shrunk(edit.scene.mask(edit.after) > 0.99)
    return nearest(np.median(result[core], axis=0)) == edit.colour


def _has_ground(edit: Edit, result: Pixels) -> bool:
    """Nine pixels in ten of the ground are nearest to the colour's name."""
    assert edit.colour is not None
    ground = result[_shrunk(edit.mask)]
    distances = np.linalg.norm(ground[:, None] - np.array(list(COLOURS.values())), axis=-1)
    return float((distances.argmin(axis=1) == NAMES.index(edit.colour)).mean()) >= 0.9


def _is_gone(edit: Edit, result: Pixels) -> bool:
    made = np.abs(edit.source - edit.target)[edit.mask].mean()
    left = np.abs(result - edit.target)[edit.mask].mean()
    return bool(left < REMAINS * made)


def _is_drawn(edit: Edit, result: Pixels) -> bool:
    """The ink of the shape's colour, away from the other shapes, is the wanted shape in the wanted place.

    It overlaps that shape well, and better than the one that stood there before.
    """
    assert edit.before is not None
    assert edit.after is not None
    assert edit.scene is not None
    ink = _ink(edit, result, edit.after)
    wanted = overlap(ink, edit.scene.mask(edit.after) > 0.5)
    return wanted >= OVERLAP and wanted > overlap(ink, edit.scene.mask(edit.before) > 0.5)


def _is_added(edit: Edit, result: Pixels) -> bool:
    """One new patch of the wanted colour, whose form is nearest to the wanted shape; the rest is as it was."""
    assert edit.after is not None
    assert edit.scene is not None
    patch = _largest(np.abs(result - edit.source).mean(axis=-1) > 0.12)
    if patch.sum() < 150 or np.abs(result - edit.source)[~_grown(patch, 3)].mean() > LEAK:
        return False
    core = _shrunk(patch)
    if not core.any() or nearest(np.median(result[core], axis=0)) != edit.colour:
        return False
    return closest_shape(patch) == edit.after.shape


def _ink(edit: Edit, result: Pixels, item: Item) -> Mask:
    assert edit.scene is not None
    to_colour = np.linalg.norm(result - rgb(item.colour), axis=-1)
    to_ground = np.linalg.norm(result - edit.scene.ground, axis=-1)
    # What an edit added may stand elsewhere than in the example; it is judged by itself.
    shapes = [other for other in edit.scene.items if other != item]
    others = [edit.scene.mask(other) > 0 for other in shapes]
    if edit.kind == "add" and item != edit.after:
        others.append(np.abs(result - edit.source).mean(axis=-1) > 0.12)
    elsewhere = _grown(np.any(others, axis=0), 1) if others else np.zeros_like(edit.mask)
    return np.asarray((to_colour < to_ground) & ~elsewhere)


def overlap(one: Mask, other: Mask) -> float:
    """Intersection over union; 0 where both are empty."""
    union = np.logical_or(one, other).sum()
    return float(np.logical_and(one, other).sum() / union) if union else 0.0


def closest_shape(patch: Mask) -> str:
    """The shape, at the patch's place and of any fitting size, that overlaps it most."""
    rows, columns = np.nonzero(patch)
    left, right, top, bottom = columns.min(), columns.max() + 1, rows.min(), rows.max() + 1
    height, width = patch.shape
    reach = max(right - left, bottom - top) / 2
    x, y = (left + right) / 2, (top + bottom) / 2
    scores = {
        shape: max(
            overlap(patch, coverage(shape, x, y + lift * reach, reach * size, 0, width, height) > 0.5)
            for size in (0.9, 1.0, 1.1, 1.22)
            for lift in (0.0, 0.1)
        )
        for shape in SHAPES
    }
    return max(scores, key=lambda shape: scores[shape])


def _largest(mask: Mask) -> Mask:
    count, labels, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8))
    if count < 2:
        return np.zeros_like(mask)
    return np.asarray(labels == 1 + int(stats[1:, cv2.CC_STAT_AREA].argmax()))


def _shrunk(mask: Mask) -> Mask:
    return cv2.erode(mask.astype(np.uint8), np.ones((3, 3), np.uint8), borderValue=1).astype(np.bool_)


def _grown(mask: Mask, pixels: int) -> Mask:
    size = 2 * pixels + 1
    return cv2.dilate(mask.astype(np.uint8), np.ones((size, size), np.uint8)).astype(np.bool_)
