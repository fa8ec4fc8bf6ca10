"""The study's curves: for the first variant what each residual does against α, for all of them the person's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from darkroom.media.charts import Panel, line_charts

LABELS = {"identity": "the person", "wrong": "another person", "random": "random residual"}
LEVELS = {"base": "prompt alone", "caption": "caption"}


def plots(rows: Sequence[Mapping[str, Any]]) -> bytes:
    """PNG."""
    first = rows[0]
    panels = [
        Panel(f"{first['name']}: {name}", "α", _kinds(first["curves"][name])) for name in ("similarity", "adherence")
    ]
    others = {row["name"]: _points(row["curves"]["similarity"].get("identity", {})) for row in rows}
    return line_charts([*panels, Panel("similarity to the person, every variant", "α", others)])


def _kinds(curves: Mapping[str, Mapping[str, float]]) -> dict[str, tuple[list[float], list[float]]]:
    found = {label: _points(curves[kind]) for kind, label in LABELS.items() if kind in curves}
    ends = [0.0, max((x for xs, _ in found.values() for x in xs), default=1.0)]
    for kind, label in LEVELS.items():
        if kind in curves:
            level = next(iter(curves[kind].values()))
            found[label] = (ends, [level, level])
    return found


def _points(curve: Mapping[str, float]) -> tuple[list[float], list[float]]:
    points = sorted((float(alpha), value) for alpha, value in curve.items())
    return [alpha for alpha, _ in points], [value for _, value in points]
