"""What a card costs: one table, the same in the code and in docs/deploy.md."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from darkroom.bench.prices import price_of, prices
from darkroom.timing import USD_PER_SECOND, card_of, usd_per_second

DEPLOY = Path(__file__).parents[2] / "docs" / "deploy.md"
ROW = re.compile(r"^\| (?P<cards>[^|]+) \| \d+ GB \|.*\| (?P<flex>0\.\d+) \(0\.\d+\) \|", re.MULTILINE)


def test_the_guides_prices_are_those_that_replies_are_counted_with() -> None:
    told = {card_of(card): float(row["flex"])
            for row in ROW.finditer(DEPLOY.read_text("utf-8")) for card in row["cards"].split(", ")}
    assert told == USD_PER_SECOND


@pytest.mark.parametrize(("reported", "usd"), [
    ("NVIDIA L4", 0.00019), ("NVIDIA L40S", 0.00053), ("NVIDIA A40", 0.00034), ("NVIDIA RTX A6000", 0.00034),
    ("NVIDIA GeForce RTX 4090", 0.00031), ("NVIDIA A100-SXM4-80GB", 0.00076), ("NVIDIA A100 80GB PCIe", 0.00076),
    ("NVIDIA H100 80GB HBM3", 0.00116), ("NVIDIA H200", 0.00155), ("NVIDIA RTX 6000 Ada Generation", 0.00053),
    ("NVIDIA A10", None), ("NVIDIA GeForce RTX 3090 Ti", None), ("NVIDIA GeForce RTX 4090 Laptop GPU", None),
    ("NVIDIA RTX A600", None), ("", None), (None, None),
])
def test_a_card_has_the_price_of_its_own_name_or_none(reported: str | None, usd: float | None) -> None:
    assert usd_per_second(reported) == usd


@pytest.mark.parametrize("card", ["H100", "4090", "RTX 4090", "A6000", "RTX A6000", "6000 Ada", "L40S", "A40"])
def test_every_card_can_be_asked_for_by_the_name_that_people_use(card: str) -> None:
    assert price_of(card) > 0


@pytest.mark.parametrize(("asked", "measured_on", "same"), [
    ("RTX A6000", "NVIDIA GeForce RTX 4090", False), ("RTX 4090", "NVIDIA GeForce RTX 4090", True),
    ("L4", "NVIDIA L40S", False), ("A100", "NVIDIA A100-SXM4-80GB", True), ("L4", "NVIDIA GTX 970", False),
])
def test_a_price_is_assumed_unless_the_jobs_ran_on_that_very_card(asked: str, measured_on: str, same: bool) -> None:
    [price] = prices([asked], measured_on)
    assert price.assumed is not same
