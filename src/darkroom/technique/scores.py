"""Scores of what an edit should have done, and whether one editor does it better than another."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from rapidfuzz.distance import Levenshtein


@dataclass(frozen=True)
class Interval:
    """A mean difference and the bounds of its confidence interval."""

    mean: float
    low: float
    high: float

    @property
    def excludes_zero(self) -> bool:
        """Whether the difference is one, as far as the interval tells."""
        return self.low > 0 or self.high < 0


def text_similarity(read: str, wanted: str) -> float:
    """0…1: 1 − Levenshtein distance / the longer text's length, of both texts in `comparable` form; 1 for two empty."""
    return Levenshtein.normalized_similarity(comparable(read), comparable(wanted))


def comparable(text: str) -> str:
    """NFKC, lower case, and every run of white space one blank, none at the ends."""
    return " ".join(unicodedata.normalize("NFKC", text).lower().split())


def paired_difference(
    before: Sequence[float], after: Sequence[float], level: float = 0.95, draws: int = 10_000, seed: int = 0
) -> Interval:
    """The mean of after − before over cases, with the percentile bootstrap's interval (Efron, 1979).

    One value per case in either list, of the same case at the same place: pairs are drawn, never single values, and
    what a case gives for several seeds is averaged before, since its seeds say nothing about other cases. Equal lists
    give 0, 0, 0. Raises ValueError for lists of different lengths or for none.
    """
    if len(before) != len(after) or not before:
        raise ValueError(f"a paired difference needs as many values after ({len(after)}) as before ({len(before)})")
    gaps = np.asarray(after, dtype=np.float64) - np.asarray(before, dtype=np.float64)
    drawn = np.random.default_rng(seed).integers(len(gaps), size=(draws, len(gaps)))
    tail = (1 - level) / 2
    low, high = np.quantile(gaps[drawn].mean(axis=1), [tail, 1 - tail])
    return Interval(float(gaps.mean()), float(low), float(high))
