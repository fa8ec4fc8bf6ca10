"""What the cells of a picture show: the answers that vision is taught with."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from darkroom.pocket.world.colours import NAMES, Pixels
from darkroom.pocket.world.lettering import LETTERS, Lettering
from darkroom.pocket.world.scenes import Item
from darkroom.pocket.world.shapes import SHAPES, coverage

NO_SHAPE = len(SHAPES)
NO_DOT = len(NAMES)
NO_LETTER = len(LETTERS)
# What cross_entropy leaves out unless told otherwise.
UNASKED = -100
# A vision tower need not name a shape that covers less of a cell.
_LEAST_SHARE = 0.12

Labels = NDArray[np.int64]


def cell_means(plane: Pixels, rows: int, columns: int) -> Pixels:
    """[rows · columns]: the mean of a plane [H, W] over each cell."""
    height, width = plane.shape
    means: Pixels = plane.reshape(rows, height // rows, columns, width // columns).mean(axis=(1, 3)).flatten()
    return means


def cover(items: Sequence[Item], width: int, height: int, rows: int, columns: int) -> tuple[Labels, Pixels]:
    """Per cell the number of the item that covers most of it, and how much that is; `items` must not be empty."""
    shares = np.stack(
        [cell_means(coverage(i.shape, i.x, i.y, i.radius, i.degrees, width, height), rows, columns) for i in items]
    )
    return shares.argmax(axis=0), shares.max(axis=0)


def shape_cells(items: Sequence[Item], width: int, height: int, rows: int, columns: int, least_share: float) -> Labels:
    """[rows · columns]: the shape, as its number in SHAPES, that covers most of each cell, or NO_SHAPE."""
    if not items:
        return np.full(rows * columns, NO_SHAPE)
    winner, share = cover(items, width, height, rows, columns)
    shapes = np.array([SHAPES.index(item.shape) for item in items])
    return np.where(share >= least_share, shapes[winner], NO_SHAPE)


def scene_cells(
    items: Sequence[Item], dots: Sequence[Item], width: int, height: int, side: int
) -> tuple[Labels, Labels, Labels]:
    """Per cell of `side` × `side`: the shape that covers most of it or NO_SHAPE, its colour or UNASKED, a dot's colour
    or NO_DOT; `items` must not be empty."""
    winner, share = cover(items, width, height, side, side)
    covered = share >= _LEAST_SHARE
    shapes = np.array([SHAPES.index(item.shape) for item in items])[winner]
    colours = np.array([NAMES.index(item.colour) for item in items])[winner]
    marked = np.full(side * side, NO_DOT)
    for dot in dots:
        marked[int(dot.y * side / height) * side + int(dot.x * side / width)] = NAMES.index(dot.colour)
    return np.where(covered, shapes, NO_SHAPE), np.where(covered, colours, UNASKED), marked


def letter_cells(lettering: Lettering, width: int, height: int, rows: int, columns: int) -> Labels:
    """[rows · columns]: the letter, as its number in LETTERS, in whose box the middle of each cell lies, or NO_LETTER.

    A letter's box is as wide as the letter and twice as high.
    """
    across = ((np.arange(columns) + 0.5) * width / columns - lettering.left) * len(lettering.word) / lettering.width
    down = np.abs((np.arange(rows) + 0.5) * height / rows - lettering.y) * len(lettering.word) / lettering.width
    named = [LETTERS.index(letter) for letter in lettering.word]
    line = [named[int(place)] if 0 <= place < len(named) else NO_LETTER for place in across]
    return np.where(down[:, None] < 1, np.array(line), NO_LETTER).flatten()


def mean_colours(picture: Pixels, side: int) -> Pixels:
    """[side · side, 3]: the mean colour of each cell of a picture [H, W, 3]."""
    means: Pixels = np.stack([cell_means(picture[..., channel], side, side) for channel in range(3)], axis=-1)
    return means
