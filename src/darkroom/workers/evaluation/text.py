"""Words that are to be changed: are they found, do they say what was asked, and do they look as before?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, partial
from importlib.resources import files
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from darkroom.media.ocr import Reader
from darkroom.pocket.world.colours import NAMES, rgb
from darkroom.pocket.world.grounds import flat
from darkroom.technique.likeness import Pixels, nearer
from darkroom.technique.scores import text_similarity
from darkroom.workers.evaluation.case import Case, Ruler, Scores, Shot, Suite, to_picture
from darkroom.workers.evaluation.scenes import BASE

RULERS = (
    Ruler("text_changed", "1 − Levenshtein distance / longer length, between what is read and the word asked for"),
    Ruler("text_found", "share in which any text is read where the word stands"),
    Ruler("colour_kept", "1 − distance of the ink's colour from the old word's, in sRGB, over its largest"),
    Ruler("size_kept", "the smaller of the ink's height and the wanted word's, over the larger"),
    Ruler("place_kept", "1 − distance of the ink's middle from the wanted word's, over half the picture's side"),
)
SEED = 910_004

WORDS = {
    "eng": ("CAT", "DOG", "OPEN", "STOP", "SALE", "HOME", "FISH", "Tea", "Map", "Exit"),
    "fra": ("CAFÉ", "NOËL", "FÊTE", "ÇA VA", "Été", "Forêt", "Père", "Élan"),
    "deu": ("TÜR", "ÖL", "GRÜN", "KÄSE", "Straße", "Größe", "Müll", "Süß"),
    "chi_sim": ("出口", "你好", "中国", "上海", "茶", "大门", "商店"),
}
"""Tesseract's code of a language -> words that are changed into each other."""

CJK_FONTS = (
    "NotoSansCJK-Bold.ttc",
    "NotoSansCJK-Regular.ttc",
    "SourceHanSansSC-Regular.otf",
    "wqy-microhei.ttc",
    "wqy-zenhei.ttc",
    "DroidSansFallbackFull.ttf",
    "PingFang.ttc",
    "msyh.ttc",
)
"""Fonts with Chinese letters, by what their files are called; the first that the machine has is taken."""
CJK_PACKAGE = "fonts-wqy-microhei"

_LATIN_FONTS = ("DejaVuSansMono-Bold.ttf", "DejaVuSans-Bold.ttf", "DejaVuSerif-Bold.ttf")
_FONT_SIZE, _WIDEST = 40, 110
"""Pixels of 128: of the font, and of the longest word, which gets a smaller font."""
_CONTRAST = 0.6


@dataclass(frozen=True)
class Line:
    """A word in the middle of (x, y); `size` of the font in pixels."""

    word: str
    font: Path
    size: int
    x: float
    y: float

    def mask(self, side: int) -> Pixels:
        """[side, side] in 0…1: how much of each pixel the letters cover."""
        canvas = Image.new("L", (side, side), 0)
        font = ImageFont.truetype(str(self.font), self.size)
        ImageDraw.Draw(canvas).text((self.x, self.y), self.word, fill=255, font=font, anchor="mm")
        return np.asarray(canvas, dtype=np.float32) / np.float32(255)


def text(cases: int, scale: int, languages: Sequence[str], reader: Reader, notes: Sequence[str] = ()) -> Suite:
    """The languages by turns; each must be known to WORDS, have a font here and be readable by Tesseract."""
    drawn = tuple(
        _case(np.random.default_rng((SEED, number)), languages[number % len(languages)], scale, reader)
        for number in range(cases)
    )
    return Suite("ocr", "Text: read and changed", RULERS, drawn, notes=tuple(notes))


def fonts_of(language: str) -> tuple[Path, ...]:
    """Fonts that have the language's letters: DejaVu, which comes with matplotlib, or the machine's; may be none."""
    if language != "chi_sim":
        folder = files("matplotlib").joinpath("mpl-data", "fonts", "ttf")
        return tuple(Path(str(folder.joinpath(name))) for name in _LATIN_FONTS)
    found = _system_fonts()
    return tuple(found[name] for name in CJK_FONTS if name in found)[:1]


@cache
def _system_fonts() -> dict[str, Path]:
    from matplotlib.font_manager import findSystemFonts

    return {Path(path).name: Path(path) for path in findSystemFonts()}


def _case(rng: np.random.Generator, language: str, scale: int, reader: Reader) -> Case:
    old, new = (str(word) for word in rng.choice(WORDS[language], size=2, replace=False))
    paper, ink = _colours(rng)
    side, fonts = BASE * scale, fonts_of(language)
    font = fonts[rng.integers(len(fonts))]
    size = _size(font, (old, new)) * scale
    x, y = side / 2, side / 2 + float(rng.uniform(-20, 20)) * scale
    before, after = (Line(word, font, size, x, y) for word in (old, new))
    source, target = (_drawn(line, side, paper, ink) for line in (before, after))
    shot = Shot(source, f'change the word to "{new}"', target)
    return Case((shot,), partial(judge, after, language, paper, ink, reader), f"{language}: {old} → {new}")


def _colours(rng: np.random.Generator) -> tuple[str, str]:
    while True:
        paper, ink = (str(name) for name in rng.choice(NAMES, size=2, replace=False))
        if np.linalg.norm(rgb(paper) - rgb(ink)) >= _CONTRAST:
            return paper, ink


def _size(font: Path, words: tuple[str, str]) -> int:
    """The same for both, so that the longer one fits."""
    widest = max(ImageFont.truetype(str(font), _FONT_SIZE).getlength(word) for word in words)
    return min(_FONT_SIZE, int(_FONT_SIZE * _WIDEST / widest))


def _drawn(line: Line, side: int, paper: str, ink: str) -> Pixels:
    ground = flat(rgb(paper), side, side)
    return np.asarray(ground + line.mask(side)[..., None] * (rgb(ink) - ground), dtype=np.float32)


def judge(line: Line, language: str, paper: str, ink: str, reader: Reader, results: Sequence[Pixels]) -> Scores:
    """By Tesseract in the band of the picture where the word should be, and by the ink that is found there."""
    result = results[0]
    side = result.shape[0]
    top, bottom = max(0, round(line.y - 1.2 * line.size)), min(side, round(line.y + 1.2 * line.size))
    read = reader.read(to_picture(result[top:bottom]), language, 0.73 * line.size)
    wanted = line.mask(side) > 0.5
    found = nearer(result, rgb(ink), [rgb(paper)])
    return {
        "text_changed": text_similarity(read, line.word),
        "text_found": float(any(letter.isalnum() for letter in read)),
        **_look(result, found, wanted, rgb(ink)),
    }


def _look(result: Pixels, found: np.ndarray[tuple[int, ...], np.dtype[np.bool_]],
          wanted: np.ndarray[tuple[int, ...], np.dtype[np.bool_]], ink: Pixels) -> Scores:  # fmt: skip
    """Colour, size and place of the ink; nothing is kept where there is none."""
    if not found.any():
        return {"colour_kept": 0.0, "size_kept": 0.0, "place_kept": 0.0}
    (top, bottom, middle), (wanted_top, wanted_bottom, meant) = _box(found), _box(wanted)
    heights = bottom - top, wanted_bottom - wanted_top
    apart = float(np.linalg.norm(np.subtract(middle, meant))) / (len(result) / 2)
    colour = np.median(result[found], axis=0)
    farthest = float(np.linalg.norm(np.maximum(ink, 1 - ink)))
    return {
        "colour_kept": 1 - float(np.linalg.norm(colour - ink)) / farthest,
        "size_kept": min(heights) / max(heights),
        "place_kept": max(0.0, 1 - apart),
    }


def _box(mask: np.ndarray[tuple[int, ...], np.dtype[np.bool_]]) -> tuple[int, int, tuple[float, float]]:
    """(top, bottom, (x, y) of the middle) of a mask's box."""
    rows, columns = np.nonzero(mask)
    middle = (float(columns.min() + columns.max()) / 2, float(rows.min() + rows.max()) / 2)
    return int(rows.min()), int(rows.max()) + 1, middle
