"""A reader of words: the letters whose drawing explains the picture best, by matching templates."""

from functools import cache

import cv2
import numpy as np
from numpy.typing import NDArray

from darkroom.pocket.world.colours import Pixels
from darkroom.pocket.world.lettering import ADVANCE, CAPITAL, LETTERS, LONGEST, Lettering

# A word may stand this many pixels off its place.
_DRIFT = 4
# Less contrast than this (Euclidean in sRGB) is no writing.
_FAINT = 0.2
# How much of the ink the best word must explain.
_EXPLAINED = 0.5


def read(picture: Pixels, place: Lettering) -> str:
    """The word of one to four capitals that begins where `place` does in `picture` [H, W, 3] in [0, 1]; "" where none
    can be read.

    Of `place` only its left end, height and size count, its letters are not looked at.
    """
    ink = ink_around(picture, place)
    if ink is None:
        return ""
    gain, word = max(_best(ink, place.size, count) for count in range(1, LONGEST + 1))
    return word if gain >= _EXPLAINED * float(np.sum(ink**2)) else ""


def ink_around(picture: Pixels, place: Lettering) -> Pixels | None:
    """How far each pixel of the field of `place` is from the paper's colour: 0 on paper, 1 on strong ink.

    The field begins _DRIFT pixels before `place` and has room for the longest word. None where there is only paper.
    """
    width = round(LONGEST * ADVANCE * place.size) + 2 * _DRIFT
    height = 2 * round(CAPITAL * place.size / 2 + _DRIFT + 2)
    shift = np.array([[1, 0, _DRIFT - place.left], [0, 1, height / 2 - place.y]], dtype=np.float32)
    box = cv2.warpAffine(picture, shift, (width, height), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    distance = np.linalg.norm(box - np.median(box.reshape(-1, 3), axis=0), axis=-1)
    strong = float(np.quantile(distance, 0.97))
    return np.clip(distance / strong, 0, 1).astype(np.float32) if strong >= _FAINT else None


def _best(ink: Pixels, size: float, count: int) -> tuple[float, str]:
    """The word of `count` letters that explains most of `ink`'s squares, over all small drifts: (how much, word)."""
    gains = _gains(ink, size)
    best = (0.0, "")
    for drift in range(2 * _DRIFT + 1):
        places = np.rint(drift + np.arange(count) * ADVANCE * size).astype(int)
        if places[-1] >= gains.shape[2]:
            continue
        scores = gains[:, :, places]
        gain_of_row = scores.max(axis=0).sum(axis=1)
        row = int(gain_of_row.argmax())
        best = max(
            best, (float(gain_of_row[row]), "".join(LETTERS[letter] for letter in scores[:, row].argmax(axis=0)))
        )
    return best


def _gains(ink: Pixels, size: float) -> NDArray[np.float32]:
    """[26, rows, columns]: Σ ink² − Σ (ink − letter)² for each letter, by the place of its cell's corner."""
    templates = _templates(size)
    found = [2 * cv2.matchTemplate(ink, letter, cv2.TM_CCORR) - np.sum(letter**2) for letter in templates]
    return np.stack(found).astype(np.float32)


@cache
def _templates(size: float) -> tuple[Pixels, ...]:
    """Every letter's drawing in a cell of its own."""
    width, height = round(ADVANCE * size), round(CAPITAL * size) + 2
    return tuple(Lettering(letter, width / 2, height / 2, size).mask(width, height) for letter in LETTERS)
