"""Words in a fixed-width font, known to the pixel: what is written, what reads it back."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache
from importlib.resources import files

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from darkroom.pocket.world.colours import Pixels

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
# Matplotlib carries it; every letter is as wide as the next. The plain one's thin strokes lose their colour in the VAE.
_FONT = "DejaVuSansMono-Bold.ttf"
# Of a letter, in font sizes.
ADVANCE = 0.602
CAPITAL = 0.729
# Of a word, in letters: what fits into the smallest picture.
LONGEST = 4

_WORDS = (
    "GO UP ON NO OK HI CAT DOG SUN SKY RED ONE TWO TEN BUS CAR BOX MAP TEA ICE OWL FOX "
    "OPEN STOP EXIT HOME BOOK FISH LOVE MILK SALE ZOOM JUMP QUIZ WORK VASE KING"
).split()


@dataclass(frozen=True)
class Lettering:
    """A word in capitals around its centre (x, y); `size` of the font in pixels."""

    word: str
    x: float
    y: float
    size: float

    @property
    def width(self) -> float:
        """In pixels."""
        return len(self.word) * ADVANCE * self.size

    @property
    def left(self) -> float:
        """Where the first letter begins."""
        return self.x - self.width / 2

    def letters(self) -> list[Lettering]:
        """Each letter in its place, as a word of its own."""
        places = self.left + ADVANCE * self.size * (np.arange(len(self.word)) + 0.5)
        return [replace(self, word=letter, x=float(x)) for letter, x in zip(self.word, places, strict=True)]

    def mask(self, width: int, height: int) -> Pixels:
        """[height, width] in [0, 1]: how much of each pixel the letters cover."""
        canvas = Image.new("L", (width, height), 0)
        font = _font(self.size)
        # "ls": from the left end of the line on which the letters stand.
        place = (self.left, self.y + CAPITAL * self.size / 2)
        ImageDraw.Draw(canvas).text(place, self.word, fill=255, font=font, anchor="ls")
        return np.asarray(canvas, dtype=np.float32) / np.float32(255)


def some_word(rng: np.random.Generator, shortest: int = 2, longest: int = LONGEST) -> str:
    """A common word in half of the cases, else any letters."""
    common = [word for word in _WORDS if shortest <= len(word) <= longest]
    if rng.random() < 0.5 and common:
        return common[rng.integers(len(common))]
    return "".join(LETTERS[index] for index in rng.integers(len(LETTERS), size=rng.integers(shortest, longest + 1)))


@cache
def _font(size: float) -> ImageFont.FreeTypeFont:
    path = files("matplotlib").joinpath("mpl-data", "fonts", "ttf", _FONT)
    return ImageFont.truetype(str(path), size)
