"""metrics.csv and metrics.png: what was measured of each frame, and what guidance did within it."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from io import StringIO
from typing import Any

from darkroom.media.charts import Panel, line_charts
from darkroom.technique.guidance import GuidedStep

METRICS = ("edge_loss", "gram_loss", "lpips_to_init", "lpips_to_prev", "edge_f1", "warp_error")
"""The seed's columns, then the rulers that guidance does not see; warp_error is empty without a source video."""

TIMES = ("guidance_seconds", "frame_seconds")
COLUMNS = (
    "frame", "seed", *METRICS, "guided_steps", "relative_step", "drift_x", "drift_y", "drift_zoom", *TIMES,
)  # fmt: skip

_SHOWN_FRAMES = 6

Row = dict[str, Any]


def guidance_fields(steps: Sequence[GuidedStep]) -> Row:
    """The row's part about guidance: relative_step is the mean of rms(shift) / rms(x0) over the guided steps."""
    mean = sum(step.relative_step for step in steps) / len(steps) if steps else 0.0
    return {
        "guided_steps": len(steps),
        "relative_step": mean,
        "guidance_seconds": sum(step.seconds for step in steps),
    }


def step_record(steps: Sequence[GuidedStep]) -> list[dict[str, Any]]:
    """The guided steps as JSON values, for the plots and a later try."""
    return [{"step": step.step, "sigma": step.sigma, "losses": dict(step.losses)} for step in steps]


def table(rows: Sequence[Row]) -> bytes:
    """CSV with a row per frame, numbers as Python writes them, which is exact."""
    text = StringIO()
    writer = csv.DictWriter(text, COLUMNS, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode()


def plots(rows: Sequence[Row], steps: Mapping[int, Sequence[Mapping[str, Any]]]) -> bytes:
    """PNG: each metric by frame, and each guided loss by step for a few frames.

    steps: frame -> its `step_record`.
    """
    panels = [Panel(name, "frame", {name: points}) for name in METRICS if (points := _by_frame(rows, name))[0]]
    for name in ("edge", "gram", "temporal"):
        curves = {f"frame {frame}": points for frame in _chosen(steps) if (points := _by_step(steps[frame], name))[0]}
        if curves:
            panels.append(Panel(f"{name} loss within a frame", "step", curves))
    return line_charts(panels)


def _by_frame(rows: Sequence[Row], name: str) -> tuple[list[float], list[float]]:
    found = [(row["frame"], row[name]) for row in rows if name in row]
    return [frame for frame, _ in found], [value for _, value in found]


def _by_step(steps: Sequence[Mapping[str, Any]], name: str) -> tuple[list[float], list[float]]:
    found = [(step["step"], step["losses"][name]) for step in steps if name in step["losses"]]
    return [step for step, _ in found], [value for _, value in found]


def _chosen(steps: Mapping[int, Sequence[Mapping[str, Any]]]) -> list[int]:
    """A few frames, evenly apart."""
    frames = sorted(steps)
    few = min(_SHOWN_FRAMES, len(frames))
    return [frames[round(k * (len(frames) - 1) / max(few - 1, 1))] for k in range(few)]
