"""Two reports side by side: how many times as long."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def read_report(path: Path) -> dict[str, Any]:
    """A report that `darkroom bench` wrote. Raises ValueError for any other file, OSError."""
    try:
        report = json.loads(path.read_text("utf-8"))
    except ValueError:
        raise ValueError(f"{path} is not JSON") from None
    if not isinstance(report, dict) or report.get("darkroom_bench") != 1 or report.get("kind") != "endpoint":
        raise ValueError(f"{path} is not an endpoint report of darkroom bench")
    return report


def ratios(old: dict[str, Any], new: dict[str, Any]) -> str:
    """A Markdown table: p50 and p95 of each phase, old, new and new ÷ old; below 1 is faster."""
    lines = ["| job | phase (ms) | p50 old | p50 new | ratio | p95 old | p95 new | ratio |",
             "|---|---|---:|---:|---:|---:|---:|---:|"]
    for kind in ("cold", "warm"):
        before, after = old[kind]["phases"], new[kind]["phases"]
        lines += [_row(kind, name, before[name], after[name]) for name in after if name in before]
    lines += ["", *_differences(old, new)]
    return "\n".join(lines).rstrip() + "\n"


def _row(kind: str, name: str, old: dict[str, float], new: dict[str, float]) -> str:
    cells = []
    for key in ("p50", "p95"):
        ratio = f"{new[key] / old[key]:.2f}" if old[key] > 0 else "–"
        cells += [f"{old[key]:.1f}", f"{new[key]:.1f}", ratio]
    return f"| {kind} | {name.removesuffix('_ms')} | " + " | ".join(cells) + " |"


def _kept(value: Any) -> Any:
    """How many jobs were timed does not change how long one takes."""
    return {k: v for k, v in value.items() if k not in ("cold", "warm")} if isinstance(value, dict) else value


def _differences(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """What else differs between the runs: ratios of unlike things say little."""
    parts = {"machine": "machine", "gpu": "worker's card", "settings": "settings", "endpoint": "endpoint"}
    differing = [label for key, label in parts.items() if _kept(old.get(key)) != _kept(new.get(key))]
    return [f"Note: the runs also differ in {', '.join(differing)}."] if differing else []
