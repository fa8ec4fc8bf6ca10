"""`darkroom bench bridge`: what a bridge costs an edit."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer


def bridge(
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Also write the figures as JSON.")] = None,
    rounds: Annotated[int, typer.Option(min=1)] = 7,
) -> None:
    """Seconds of an edit without a bridge, with one and cached sight, and with one and a new picture."""
    from darkroom.bench.bridge import study

    found = study(rounds)
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(json.dumps(found, indent=1) + "\n", "utf-8")
    for name, seconds in found["median_seconds"].items():
        share = found["overhead"].get(name)
        more = "" if share is None else f"  {share:+.1%}, target below {found['target'][name]:.0%}"
        typer.echo(f"{name:15}  {seconds:.3f} s{more}")
