"""Edits of words: write one, on the ground or on a plate; change the one that stands there."""

from dataclasses import dataclass, replace

import numpy as np

from darkroom.pocket.world.colours import NAMES, Pixels, rgb
from darkroom.pocket.world.edit import Edit, differing
from darkroom.pocket.world.lettering import FONTS, LONGEST, Lettering, some_word
from darkroom.pocket.world.phrases import phrase
from darkroom.pocket.world.scenes import Scene, draw_scene

# At 128 pixels of the shorter side; four letters are 96 pixels wide.
_FONT_SIZE = 40
_PADDING = 7
# How far ink and paper are apart at least (Euclidean in sRGB): what can be read can be judged.
_CONTRAST = 0.5


@dataclass(frozen=True)
class _Page:
    """A picture with room for a word around (x, y), and what the paper looks like there."""

    picture: Pixels
    x: float
    y: float
    paper: Pixels


def draw_writing(rng: np.random.Generator, width: int = 128, height: int = 128) -> Edit:
    """Write a word where there is none: in the middle of the plate, or of the picture where there is no plate.

    Black on light paper, white on dark.
    """
    page = _page(rng, width, height)
    ink = "black" if page.paper.mean() > 0.5 else "white"
    lettering = Lettering(some_word(rng), page.x, page.y, _font_size(width, height))
    return _edit(rng, "write", page.picture, page.picture, lettering, ink)


def draw_rewording(rng: np.random.Generator, width: int = 128, height: int = 128) -> Edit:
    """Another word in the place, colour and font of the one that stands there, which may be shorter or longer."""
    page = _page(rng, width, height)
    inks = [name for name in NAMES if np.linalg.norm(rgb(name) - page.paper) >= _CONTRAST]
    ink = str(rng.choice(inks))
    font = str(rng.choice(list(FONTS)))
    old = Lettering(some_word(rng), page.x, page.y, _font_size(width, height), font)
    new = replace(old, word=some_word(rng))
    while new.word == old.word:
        new = replace(old, word=some_word(rng))
    return _edit(rng, "reword", page.picture, _inked(page.picture, old, ink), new, ink)


def _edit(rng: np.random.Generator, kind: str, bare: Pixels, source: Pixels, lettering: Lettering, ink: str) -> Edit:
    target = _inked(bare, lettering, ink)
    text = phrase(rng, kind, word=lettering.word)
    return Edit(kind, text, source, target, differing(source, target), colour=ink, lettering=lettering)


def _inked(picture: Pixels, lettering: Lettering, ink: str) -> Pixels:
    height, width = picture.shape[:2]
    mask = lettering.mask(width, height)[..., None]
    return np.asarray(picture + mask * (rgb(ink) - picture), dtype=np.float32)


def _font_size(width: int, height: int) -> int:
    return round(_FONT_SIZE * min(width, height) / 128)


def _page(rng: np.random.Generator, width: int, height: int) -> _Page:
    """A scene whose shapes leave room for a word; in half of the cases on a plate."""
    longest = Lettering("M" * LONGEST, 0, 0, _font_size(width, height))
    half_width, half_height = longest.width / 2 + _PADDING, longest.size / 2 + _PADDING
    on_plate = rng.random() < 0.5
    x, y = width / 2, height / 2
    if on_plate:
        x = float(rng.uniform(half_width + 2, width - half_width - 2))
        y = float(rng.uniform(half_height + 2, height - half_height - 2))
    left, right = round(x - half_width), round(x + half_width)
    top, bottom = round(y - half_height), round(y + half_height)
    scene = draw_scene(rng, width, height)
    kept = [
        item
        for item in scene.items
        if not scene.mask(item)[max(top - 2, 0) : bottom + 2, max(left - 2, 0) : right + 2].any()
    ]
    scene = Scene(scene.ground, tuple(kept))
    picture = scene.render()
    under = picture[top:bottom, left:right].mean(axis=(0, 1))
    if on_plate:
        plates = [name for name in NAMES if np.linalg.norm(rgb(name) - under) >= _CONTRAST]
        under = rgb(str(rng.choice(plates)))
        picture[top:bottom, left:right] = under
    return _Page(picture, x, y, np.asarray(under, dtype=np.float32))
