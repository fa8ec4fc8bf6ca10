"""The suites that a job asks for, as far as this machine can write and read their texts."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from darkroom.errors import InvalidInput
from darkroom.media import ocr
from darkroom.workers.evaluation.case import Suite
from darkroom.workers.evaluation.consistency import consistency
from darkroom.workers.evaluation.detail import Distance, detail
from darkroom.workers.evaluation.marks import marks
from darkroom.workers.evaluation.spatial import spatial
from darkroom.workers.evaluation.text import CJK_PACKAGE, WORDS, fonts_of, text


def suites(
    names: Iterable[str], cases: int, scale: int, distance: Distance, languages: Sequence[str] | None = None
) -> list[Suite]:
    """The named suites, each of so many cases. Raises InvalidInput as `readable` does.

    scale: pixels for one of the pocket world's 128 a side (`scenes.scale_for`). distance: perceptual, for details.
    """
    make = {
        "spatial": lambda: spatial(cases, scale),
        "detail": lambda: detail(cases, scale, distance),
        "consistency": lambda: consistency(cases, scale),
        "marks": lambda: marks(cases),
    }
    return [texts(cases, scale, languages) if name == "ocr" else make[name]() for name in names]


def texts(cases: int, scale: int, languages: Sequence[str] | None) -> Suite:
    """The suite of texts in the languages asked for, or in all that can be had here, with a note on the others."""
    found, notes = readable(languages)
    return text(cases, scale, found, ocr.Reader(), notes)


def readable(languages: Sequence[str] | None) -> tuple[list[str], list[str]]:
    """(languages that can be tested here, a sentence for each that cannot).

    Raises InvalidInput, which names Debian's packages, where a language that is asked for cannot be written or read
    here, or none at all can.
    """
    if languages is not None:
        ocr.require(languages, "languages")
        for language in languages:
            if not fonts_of(language):
                raise InvalidInput(
                    f"languages: this machine has no font for {language}; on Debian: apt-get install {CJK_PACKAGE}",
                    field="languages",
                    details={"packages": [CJK_PACKAGE]},
                )
        return list(languages), []
    missing = missing_for(WORDS)
    found = [language for language in WORDS if language not in missing]
    if not found:
        ocr.require(["eng"], "suites")
    return found, [
        f"{language} was not tested: it needs {' and '.join(packages)}" for language, packages in missing.items()
    ]


def missing_for(languages: Iterable[str]) -> dict[str, list[str]]:
    """Language -> Debian's packages that it needs and this machine lacks; none for those that can be tested."""
    packs = ocr.available()
    needs = {
        language: [
            *([] if language in packs else [ocr.package_of(language)]),
            *([] if fonts_of(language) else [CJK_PACKAGE]),
        ]
        for language in languages
    }
    return {language: packages for language, packages in needs.items() if packages}
