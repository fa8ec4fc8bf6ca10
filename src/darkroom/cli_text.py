"""Numbers as people read them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from darkroom.client.replies import Cost


def milliseconds(value: float) -> str:
    """'840 ms' below ten seconds, '12.3 s' above."""
    return f"{value:.0f} ms" if value < 10_000 else f"{value / 1000:.1f} s"


def timings_text(timings: Mapping[str, Any]) -> str:
    """'cold  load 30 ms · denoise 20 ms · total 60 ms', phases that did not happen left out."""
    phases = [(name.removesuffix("_ms"), value) for name, value in timings.items()
              if name.endswith("_ms") and isinstance(value, int | float) and (value > 0 or name == "total_ms")]
    heat = "cold" if timings.get("cold") else "warm"
    return f"{heat}  " + " · ".join(f"{name} {milliseconds(value)}" for name, value in phases)


def usd(value: float | None) -> str:
    """Dollars with as many digits as small prices need."""
    if value is None:
        return "price unknown"
    return f"${value:.2f}" if value >= 10 else f"${value:.4f}" if value >= 0.001 else f"${value:.7f}"


def cost_text(cost: Cost) -> str:
    """'$0.0046 · 6.10 GPU seconds on A100'."""
    seconds = "" if cost.gpu_seconds is None else f" · {cost.gpu_seconds:.2f} GPU seconds"
    return f"{usd(cost.usd)}{seconds}" + (f" on {cost.gpu}" if cost.gpu else "")
