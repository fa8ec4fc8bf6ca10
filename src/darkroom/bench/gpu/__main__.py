"""`python -m darkroom.bench.gpu`: every section in order of importance, each stored before the next one starts."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer

STARTED = time.monotonic()
RESULTS = Path("bench/results/gpu")


def main(
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder of gpu.json and gpu.md.")] = RESULTS,
    seconds: Annotated[float, typer.Option(min=1.0, help="Time budget; what no longer fits is skipped.")] = 470.0,
    small: Annotated[bool, typer.Option("--small", help="The same script at small size on the CPU.")] = False,
    disk: Annotated[Path | None, typer.Option(help="Folder for the cold start's files (60 GB); --out.")] = None,
    only: Annotated[list[str] | None, typer.Option(help="Sections by name; repeatable. All by default.")] = None,
) -> None:
    """Measure the full-size Qwen-Image-Edit-2511 architecture with random weights on one NVIDIA GPU.

    python -m darkroom.bench.gpu --seconds 470
    """
    import torch

    from darkroom.bench.gpu.measures import Run
    from darkroom.bench.gpu.record import Record
    from darkroom.bench.gpu.report import markdown
    from darkroom.bench.gpu.sections import go, plan
    from darkroom.bench.gpu.size import FULL, SMALL

    if not small and not torch.cuda.is_available():
        typer.echo("bench-gpu needs an NVIDIA GPU that torch sees; --small runs the same script on the CPU", err=True)
        raise typer.Exit(1)
    size = SMALL if small else FULL
    until, run = STARTED + seconds, Run(size)
    # Not the system's temporary folder, which may be memory.
    planned = plan(run, lambda: until - time.monotonic(), disk or out)
    if unknown := set(only or []) - {section.name for section in planned}:
        names = ", ".join(repr(section.name) for section in planned)
        raise typer.BadParameter(f"there is no section {', '.join(sorted(unknown))}; there are {names}")
    record = Record(out, until, _head(size, seconds))
    go([section for section in planned if not only or section.name in only], run, record)
    record.finish(time.monotonic() - STARTED)
    text = markdown(record.content)
    (out / "gpu.md").write_text(text, "utf-8")
    typer.echo(text)


def _head(size: Any, seconds: float) -> dict[str, Any]:
    from darkroom.bench.gpu.card import card
    from darkroom.bench.machine import commit, machine

    return {
        "darkroom_bench": 1,
        "kind": "gpu",
        "created_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": commit(),
        "machine": machine(),
        "gpu": card(size.device),
        "settings": {
            "size": size.name,
            "budget_seconds": seconds,
            "layers": size.transformer["num_layers"],
            "width": size.transformer["num_attention_heads"] * size.transformer["attention_head_dim"],
            "picture": f"{size.reference}×{size.reference}",
            "references": 1,
            "weights": "random",
        },
    }


if __name__ == "__main__":
    typer.run(main)
