"""Edits of words: write one, on the ground or on a plate; change the one that stands there.

A letter is as wide as a cell of the transformer and stands in two of them, one above the other; a word begins at the
left end of its field of four. Where letters stood at any offset, the model put ink there and no letters.
"""

from dataclasses import dataclass

import numpy as np

from darkroom.pocket.world.colours import NAMES, Pixels, rgb
from darkroom.pocket.world.edit import Edit, differing
from darkroom.pocket.world.lettering import ADVANCE, LONGEST, Lettering, some_word
from darkroom.pocket.world.phrases import phrase
from darkroom.pocket.world.scenes import Scene, draw_scene

# A letter's width: the side of a cell in pictures of the area at which the family edits, 128 × 128.
_CELL = 16
_FONT_SIZE = _CELL / ADVANCE
# Of a field, in cells.
_COLUMNS, _ROWS = LONGEST, 2
# Of the plate around a field, in pixels.
_PADDING = _CELL // 2
# How far a plate stands out from the ground at least, and ink from its paper, Euclidean in sRGB: what can be read can
# be judged. Black or white is 0.87 from any paper.
_PLATE_CONTRAST = 0.5
_INK_CONTRAST = 0.75
# Standard deviation of a ground on which a word stands without a plate, at most.
_CALM = 0.04


@dataclass(frozen=True)
class _Page:
    """A picture with a field for a word that begins at x, its middle at height y, and the paper's colour there."""

    picture: Pixels
    x: float
    y: float
    paper: Pixels

    def lettering(self, word: str) -> Lettering:
        """`word` in the field."""
        return Lettering(word, self.x + len(word) * _CELL / 2, self.y, _FONT_SIZE)


def draw_writing(rng: np.random.Generator, width: int = 128, height: int = 128) -> Edit:
    """Write a word where there is none: from the left end of the plate, or of a field in the middle of the picture.

    Black on light paper, white on dark. Raises ValueError for pictures of less than 96 × 64 pixels, which have no room.
    """
    page = _page(rng, width, height)
    ink = "black" if page.paper.mean() > 0.5 else "white"
    return _edit(rng, "write", page.picture, page.picture, page.lettering(some_word(rng)), ink)


def draw_rewording(rng: np.random.Generator, width: int = 128, height: int = 128) -> Edit:
    """Another word in the place and colour of the one that stands there, which may be shorter or longer."""
    page = _page(rng, width, height)
    inks = [name for name in NAMES if np.linalg.norm(rgb(name) - page.paper) >= _INK_CONTRAST]
    ink = str(rng.choice(inks))
    old = new = page.lettering(some_word(rng))
    while new.word == old.word:
        new = page.lettering(some_word(rng))
    return _edit(rng, "reword", page.picture, _inked(page.picture, old, ink), new, ink)


def _edit(rng: np.random.Generator, kind: str, bare: Pixels, source: Pixels, lettering: Lettering, ink: str) -> Edit:
    target = _inked(bare, lettering, ink)
    text = phrase(rng, kind, word=lettering.word)
    return Edit(kind, text, source, target, differing(source, target), colour=ink, lettering=lettering)


def _inked(picture: Pixels, lettering: Lettering, ink: str) -> Pixels:
    height, width = picture.shape[:2]
    mask = lettering.mask(width, height)[..., None]
    return np.asarray(picture + mask * (rgb(ink) - picture), dtype=np.float32)


def _page(rng: np.random.Generator, width: int, height: int) -> _Page:
    """A scene whose shapes leave room for a word: on a plate anywhere, or in the middle of half of the calm grounds."""
    columns, rows = width // _CELL - _COLUMNS, height // _CELL - _ROWS
    if columns < 2 or rows < 2:
        raise ValueError(f"a picture of {width} x {height} pixels has no room for a word; take at least 96 x 64")
    scene = draw_scene(rng, width, height)
    calm = scene.ground.std(axis=(0, 1)).mean() <= _CALM
    on_plate = not calm or rng.random() < 0.5
    column, row = columns // 2, rows // 2
    if on_plate:
        column, row = int(rng.integers(1, columns)), int(rng.integers(1, rows))
    left, right = (_CELL * end for end in (column, column + _COLUMNS))
    top, bottom = (_CELL * end for end in (row, row + _ROWS))
    plate = (slice(top - _PADDING, bottom + _PADDING), slice(left - _PADDING, right + _PADDING))
    kept = tuple(item for item in scene.items if not scene.mask(item)[plate].any())
    picture = Scene(scene.ground, kept).render()
    under = picture[plate].mean(axis=(0, 1))
    if on_plate:
        plates = [name for name in NAMES if np.linalg.norm(rgb(name) - under) >= _PLATE_CONTRAST]
        under = rgb(str(rng.choice(plates)))
        picture[plate] = under
    return _Page(picture, left, (top + bottom) / 2, np.asarray(under, dtype=np.float32))
