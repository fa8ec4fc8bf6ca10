"""Scores against closed forms, and the bootstrap against scipy's."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import bootstrap

from darkroom.technique.scores import paired_difference, text_similarity


@pytest.mark.parametrize(
    ("read", "wanted", "score"),
    [
        ("kitten", "sitting", 1 - 3 / 7),
        ("", "", 1.0),
        ("", "stop", 0.0),
        ("  STOP\nhere ", "stop here", 1.0),
        ("Straße", "STRASSE", 1 - 2 / 7),
        ("cafe\u0301", "CAFÉ", 1.0),
        ("ＡＢＣ", "abc", 1.0),
        ("出口", "出入口", 1 - 1 / 3),
    ],
)
def test_texts_are_compared_by_edits_of_their_comparable_forms(read: str, wanted: str, score: float) -> None:
    assert text_similarity(read, wanted) == pytest.approx(score)


def test_the_interval_is_that_of_scipys_percentile_bootstrap() -> None:
    rng = np.random.default_rng(0)
    before, after = rng.normal(size=40), rng.normal(0.3, 1.0, size=40)
    ours = paired_difference(before.tolist(), after.tolist(), draws=50_000)
    theirs = bootstrap((after - before,), np.mean, n_resamples=50_000, method="percentile", rng=1).confidence_interval
    assert ours.mean == pytest.approx((after - before).mean())
    assert (ours.low, ours.high) == pytest.approx(theirs, abs=0.01)


def test_the_interval_covers_the_truth_nineteen_times_in_twenty() -> None:
    rng = np.random.default_rng(1)
    found = [paired_difference([0.0] * 60, rng.normal(0.5, 1.0, 60).tolist(), draws=500) for _ in range(300)]
    assert 0.90 <= np.mean([interval.low <= 0.5 <= interval.high for interval in found]) <= 0.98


def test_what_all_cases_share_does_not_widen_the_interval() -> None:
    hard = np.linspace(0, 100, 30)
    interval = paired_difference(hard.tolist(), (hard + 1).tolist())
    assert (interval.mean, interval.low, interval.high) == pytest.approx((1.0, 1.0, 1.0))
    assert interval.excludes_zero


def test_equal_scores_differ_by_exactly_nothing() -> None:
    scores = np.random.default_rng(2).random(30).tolist()
    interval = paired_difference(scores, scores)
    assert (interval.mean, interval.low, interval.high) == (0.0, 0.0, 0.0)
    assert not interval.excludes_zero


@pytest.mark.parametrize(("before", "after"), [([1.0], [1.0, 2.0]), ([], [])])
def test_pairs_must_be_pairs(before: list[float], after: list[float]) -> None:
    with pytest.raises(ValueError, match="as many values"):
        paired_difference(before, after)
