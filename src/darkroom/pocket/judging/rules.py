"""Whether an edit is right: it did what was asked, and nothing else. Every rule looks only at pixels.

"Ink" is where a picture is nearer to a colour than to the ground that lies there.
"""

from dataclasses import replace
from itertools import pairwise

import cv2
import numpy as np

from darkroom.pocket.judging.reading import read
from darkroom.pocket.world.colours import COLOURS, NAMES, Pixels, nearest, rgb
from darkroom.pocket.world.edges import edge_map
from darkroom.pocket.world.edit import grown
from darkroom.pocket.world.edits import Edit
from darkroom.pocket.world.lettering import ADVANCE, LONGEST, Lettering
from darkroom.pocket.world.portraits import PORTRAIT_EDITS
from darkroom.pocket.world.scenes import Item
from darkroom.pocket.world.shapes import SHAPES, coverage
from darkroom.pocket.world.tones import TONES

Mask = np.ndarray[tuple[int, ...], np.dtype[np.bool_]]

# Mean absolute difference outside the mask above which an edit has touched what it should not.
LEAK = 0.03
# A pixel that differs by more, in the mean of its channels, is another colour; a square of so many of them on a side is
# seen: more than the fringe of a soft outline.
OTHER_COLOUR, BLEMISH = 0.15, 6
# Overlap (intersection over union) of the drawn shape with the wanted one.
OVERLAP = 0.7
# Mean absolute difference to the exact tone.
TONE_ERROR = 0.06
# What remains of a removed shape, as a share of the difference that it made.
REMAINS = 0.25
# F1 of edges.
EDGE_F1 = 0.8
# What may be missing of an edge map, of hair, glasses or hat, as a share of the difference that they make: thin lines
# come out soft.
UNDRAWN = 0.5
# What of an old letter may be left where a new word leaves the paper bare, as a share of the letter.
UNWIPED = 0.5
# Fewer bare pixels of an old letter say nothing.
_FEW = 24
# What may be left to move in a followed frame, as a share of what had to move.
UNMOVED = 0.4
# What a mark decided is right as if words had said it.
JUDGED_AS = {
    "dot": "recolour",
    "label": "recolour",
    "arrow": "move",
    "dot background": "background",
    "dot move": "move",
}


def is_right(edit: Edit, result: Pixels) -> bool:
    """Whether `result`, [H, W, 3] in [0, 1], is what `edit` asked for."""
    if not np.isfinite(result).all():
        return False
    if edit.kind in TONES:
        return _has_tone(edit, result)
    if edit.kind == "edges":
        return _is_edge_map(edit, result)
    if edit.kind in ("follow", "follow people"):
        return _follows(edit, result)
    if leak(edit, result) > LEAK or not _others_kept(edit, result) or _blemished(edit, result):
        return False
    if edit.lettering is not None:
        return _says(edit, edit.lettering, result)
    if edit.kind in PORTRAIT_EDITS:
        return _is_worn(edit, result)
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
    if JUDGED_AS.get(edit.kind, edit.kind) in ("add", "background"):
        return 0.0
    return float(np.abs(result - edit.source)[~edit.mask].mean())


def _blemished(edit: Edit, result: Pixels) -> bool:
    """Something is to be seen that should not be there, or not seen that should, be it small beside the picture.

    In scenes that is so anywhere, since one picture is right; in pictures of people and of words where nothing may
    change. An added shape may stand elsewhere: `_is_added` looks around it.
    """
    if edit.kind == "add":
        return False
    return blemish(result, edit.target, None if _all_is_known(edit) else ~edit.mask)


def _all_is_known(edit: Edit) -> bool:
    return edit.scene is not None and edit.lettering is None


def blemish(one: Pixels, other: Pixels, where: Mask | None = None) -> bool:
    """Whether the pictures differ, `where` that is given, in a square that is large enough to be seen."""
    differs = np.abs(one - other).mean(axis=-1) > OTHER_COLOUR
    if where is not None:
        differs &= where
    square = np.ones((BLEMISH, BLEMISH), np.uint8)
    return bool(cv2.erode(differs.astype(np.uint8), square, borderValue=0).any())


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
    near = left < min(TONE_ERROR, max(unedited / 2, TONE_ERROR / 3))
    return near and not blemish(result, edit.target)


def _is_edge_map(edit: Edit, result: Pixels) -> bool:
    """Lines where the edges are, and at a soft look much nearer to the edge map than the source was."""
    found, wanted = result.mean(axis=-1) > 0.5, edit.target.mean(axis=-1) > 0.5
    return _mostly_made(edit, result) and edge_f1(found, wanted) >= EDGE_F1


def _mostly_made(edit: Edit, result: Pixels) -> bool:
    """Where the edit changes something, at a soft look, the result is much nearer to the target than the source is."""
    made, left = _softly(edit, result)
    return bool(left[edit.mask].mean() < UNDRAWN * made[edit.mask].mean())


def _softly(edit: Edit, result: Pixels) -> tuple[Pixels, Pixels]:
    """Absolute differences to the target, of the source and of the result: a thin line may stand one pixel off."""
    source, target, seen = (cv2.GaussianBlur(image, (0, 0), 2.0) for image in (edit.source, edit.target, result))
    return np.abs(source - target), np.abs(seen - target)


def _follows(edit: Edit, result: Pixels) -> bool:
    """What moved is where it should be: there the true frame's pixels, for the most part, and its edges.

    The rest is as in the true frame. Of people the pixels are taken at a soft look: a face is all thin lines.
    """
    left = np.abs(result - edit.target)
    if left[~edit.mask].mean() > LEAK:
        return False
    if not edit.mask.any():
        return True
    made = np.abs(edit.source - edit.target)
    if edit.kind == "follow people":
        made, left = _softly(edit, result)
    in_place = left[edit.mask].mean() < UNMOVED * made[edit.mask].mean()
    found, wanted = (edge_map(image).any(axis=-1) & grown(edit.mask, 2) for image in (result, edit.target))
    return bool(in_place) and edge_f1(found, wanted) >= EDGE_F1


def edge_f1(found: Mask, wanted: Mask, tolerance: int = 2) -> float:
    """0…1: F1 of edge pixels, where a pixel counts within `tolerance` of the other's; 1 where both have none."""
    precise, recalled = found & grown(wanted, tolerance), wanted & grown(found, tolerance)
    if not precise.any() or not recalled.any():
        return float(found.any() == wanted.any())
    precision, recall = precise.sum() / found.sum(), recalled.sum() / wanted.sum()
    return float(2 * precision * recall / (precision + recall))


def _says(edit: Edit, lettering: Lettering, result: Pixels) -> bool:
    """The word is read back, each letter's strongest ink has the colour that it should have, no old letter is left."""
    height, width = result.shape[:2]
    inks = [result[letter.mask(width, height) > 0.99] for letter in lettering.letters()]
    same_ink = all(nearest(np.median(ink, axis=0)) == edit.colour for ink in inks)
    return same_ink and _is_wiped(edit, lettering, result) and read(result, lettering) == lettering.word


def _is_wiped(edit: Edit, lettering: Lettering, result: Pixels) -> bool:
    """Where an old letter stood and the new word, drifted or not, has no ink, most of it is gone: letter by letter."""
    height, width = result.shape[:2]
    made, left = (np.abs(picture - edit.target).mean(axis=-1) for picture in (edit.source, result))
    bare = edit.mask & ~grown(lettering.mask(width, height) > 0, 3)
    ends = np.rint(lettering.left + ADVANCE * lettering.size * np.arange(LONGEST + 1)).astype(int)
    for begin, end in pairwise(ends):
        part = bare[:, begin:end]
        if part.sum() >= _FEW and left[:, begin:end][part].mean() >= UNWIPED * made[:, begin:end][part].mean():
            return False
    return True


def _is_worn(edit: Edit, result: Pixels) -> bool:
    """Most of what hair, glasses or hat change is made, and the new colour is the nearest named one."""
    worn = edit.colour is None or nearest(np.median(result[_shrunk(_shrunk(edit.mask))], axis=0)) == edit.colour
    return worn and _mostly_made(edit, result)


def _has_colour(edit: Edit, result: Pixels) -> bool:
    assert edit.after is not None
    return _is_there(edit, result, edit.after)


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

    It overlaps that shape well, and better than any other shape there and than the one that stood there before.
    """
    assert edit.before is not None
    assert edit.after is not None
    assert edit.scene is not None
    ink = _ink(edit, result, edit.after)
    wanted = overlap(ink, edit.scene.mask(edit.after) > 0.5)
    others = [replace(edit.after, shape=shape) for shape in SHAPES if shape != edit.after.shape]
    nearest_other = max(overlap(ink, edit.scene.mask(other) > 0.5) for other in (edit.before, *others))
    return wanted >= OVERLAP and wanted > nearest_other


def _is_added(edit: Edit, result: Pixels) -> bool:
    """One new patch of the wanted colour, whose form is nearest to the wanted shape; the rest is as it was."""
    assert edit.after is not None
    assert edit.scene is not None
    patch = _largest(np.abs(result - edit.source).mean(axis=-1) > 0.12)
    around = ~grown(patch, 3)
    if patch.sum() < 150 or np.abs(result - edit.source)[around].mean() > LEAK:
        return False
    if blemish(result, edit.source, around):
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
    elsewhere = grown(np.any(others, axis=0), 1) if others else np.zeros_like(edit.mask)
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
