"""The report of an evaluation: one HTML file with everything in it, pictures too, worst cases first."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from darkroom.media import encode_image
from darkroom.workers.evaluation.case import Ruler, Suite
from darkroom.workers.evaluation.study import Outcome, Tried, worst_first

WORST = 5
"""Cases of each suite that the report shows."""

_HALF = 100.0


@dataclass(frozen=True)
class Judged:
    """A suite, its cases after all seeds, and what came of them."""

    suite: Suite
    tried: Sequence[Tried]
    outcomes: Sequence[Outcome]


def report(tested: Sequence[Judged], about: Mapping[str, str], warnings: Sequence[str], seeds: int) -> str:
    """HTML without any link outwards. about: label -> text, for the head of the page."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    environment.globals |= {"verdict": verdict, "number": number, "plot": plot, "worst": worst, "embedded": embedded}
    page = environment.get_template("report.html.jinja")
    return page.render(tested=tested, about=about, warnings=warnings, seeds=seeds)


def verdict(outcome: Outcome) -> str:
    """better, worse or "no difference shown", as the interval says."""
    if not outcome.difference.excludes_zero:
        return "no difference shown"
    return "better" if outcome.difference.mean * outcome.ruler.sign > 0 else "worse"


def number(value: float, ruler: Ruler, signed: bool = False) -> str:
    """With the digits that its unit deserves."""
    return f"{value:{'+' if signed else ''}.{2 if ruler.unit else 3}f}"


def plot(outcome: Outcome, outcomes: Sequence[Outcome]) -> dict[str, float]:
    """Where the interval lies on a line of −100…100, better to the right, all rulers of one unit on one scale."""
    alike = [other.difference for other in outcomes if other.ruler.unit == outcome.ruler.unit]
    most = max((abs(bound) for gap in alike for bound in (gap.low, gap.high)), default=0.0) or 1.0
    gap, sign = outcome.difference, outcome.ruler.sign
    low, high = sorted(sign * bound / most * _HALF for bound in (gap.low, gap.high))
    return {"low": low, "high": high, "mean": sign * gap.mean / most * _HALF}


def worst(one: Judged) -> list[dict[str, Any]]:
    """The cases to show, each with its scores by ruler: (baseline, enhanced, ceiling)."""
    return [
        {
            "case": case,
            "scores": [
                (ruler, case.mean("baseline", ruler.name), case.mean("enhanced", ruler.name), case.ceiling[ruler.name])
                for ruler in one.suite.rulers
            ],
        }
        for case in worst_first(one.suite, one.tried)[:WORST]
    ]


def embedded(case: Tried) -> str:
    """The case's sheet as a data URI."""
    data, media_type = encode_image(case.sheet, "webp", 90)
    return f"data:{media_type};base64,{base64.b64encode(data).decode()}"
