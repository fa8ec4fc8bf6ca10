"""Text in pictures, read by Tesseract: the program and its language packs are the machine's (Debian: tesseract-ocr)."""

from __future__ import annotations

from collections.abc import Iterable
from hashlib import sha256

import pytesseract
from PIL.Image import Image, Resampling

from darkroom.errors import InvalidInput

PACKAGE = "tesseract-ocr"
LETTER_PIXELS = 48
"""Height of a capital letter that Tesseract reads best, about; its own advice is 30 to 40 and more."""

_MARGIN = 16


def available() -> frozenset[str]:
    """Codes of the languages that Tesseract can read here ("eng", "chi_sim"); empty where there is no Tesseract."""
    try:
        found = pytesseract.get_languages()
    except pytesseract.TesseractNotFoundError:
        return frozenset()
    return frozenset(found) - {"osd"}


def package_of(language: str) -> str:
    """Debian's package of a language pack."""
    return f"{PACKAGE}-{language.replace('_', '-')}"


def require(languages: Iterable[str], field: str) -> None:
    """Raises InvalidInput, naming `field` and Debian's packages, where Tesseract or one of the languages is missing."""
    found = available()
    missing = [package_of(language) for language in languages if language not in found]
    if not found:
        missing = [PACKAGE, *missing]
    if missing:
        raise InvalidInput(
            f"{field}: this needs Tesseract with its language packs, and the machine lacks some; on Debian: "
            f"apt-get install {' '.join(missing)}",
            field=field,
            details={"packages": missing},
        )


class Reader:
    """Reads pictures of text; one that it has read before costs nothing."""

    def __init__(self) -> None:
        self._known: dict[tuple[bytes, str], str] = {}

    def read(self, picture: Image, language: str, letter_pixels: float) -> str:
        """The text in an RGB picture of a line or a block, "" where none is seen.

        language: as `available` names it. letter_pixels: about the height of its capitals, in pixels.
        """
        key = sha256(picture.tobytes() + repr((picture.size, letter_pixels)).encode()).digest(), language
        if key not in self._known:
            text = pytesseract.image_to_string(_sized(picture, letter_pixels), lang=language, config="--psm 6")
            self._known[key] = str(text).strip()
        return self._known[key]


def _sized(picture: Image, letter_pixels: float) -> Image:
    """With letters of the size that is read best."""
    scale = LETTER_PIXELS / letter_pixels
    size = (max(_MARGIN, round(picture.width * scale)), max(_MARGIN, round(picture.height * scale)))
    return picture.resize(size, Resampling.BICUBIC)
