"""`darkroom bench injection`: does a head know people, by which settings best, and what a sweep costs."""

from __future__ import annotations

import asyncio
import json
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from darkroom.cli_options import told


def injection(
    quick: Annotated[bool, typer.Option("--quick", help="Few people, short training, the four objectives alone.")] = (
        False
    ),
    only: Annotated[list[str] | None, typer.Option(help="Only this variant; repeatable.")] = None,
    train_people: Annotated[int | None, typer.Option(min=1)] = None,
    test_people: Annotated[int | None, typer.Option(min=2)] = None,
    epochs: Annotated[int | None, typer.Option(min=1)] = None,
    speed: Annotated[bool, typer.Option("--speed", help="Only seconds: a 3 × 3 sweep, nine pipeline calls.")] = False,
    rounds: Annotated[int, typer.Option(min=1, help="Of --speed.")] = 3,
    install: Annotated[str | None, typer.Option(
        metavar="VARIANT", help="Then ship that variant's head with the pocket model.")] = None,
    out: Annotated[
        Path, typer.Option("--out", "-o", help="Tables, plots, and the rows of a run to go on.")
    ] = Path("bench/results/injection"),
) -> None:
    """Tune the training of heads on people of the pocket world, and judge it on people never trained on.

    darkroom bench injection --quick
    """
    with told():
        if speed and install is not None:
            raise ValueError("--install: --speed trains no head that could ship")
    with told(), workbench() as (service, run):
        out.mkdir(parents=True, exist_ok=True)
        if speed:
            _speed(service, run, rounds, out)
        else:
            _study(quick, only or [], install, train_people, test_people, epochs, run, out)
            if install is not None:
                _ship(install, out)


@contextmanager
def workbench() -> Iterator[tuple[Any, Any]]:
    """A service on a store of its own, and a function that runs a job in it and gives its reply and folder."""
    from darkroom.errors import Internal
    from darkroom.service import Service
    from darkroom.settings import Settings

    with tempfile.TemporaryDirectory(prefix="darkroom-bench-") as folder, asyncio.Runner() as runner:
        store = Path(folder) / "store"
        service = Service(
            Settings(store=str(store), spool=Path(folder) / "spool", public_url=store.as_uri(), max_cells=100_000,
                     max_frames=100_000, job_seconds=86_400.0, cache_mib=1024.0)
        )

        def run(job_id: str, job_input: Mapping[str, Any]) -> tuple[Mapping[str, Any], Path]:
            name = "".join(character if character.isalnum() else "-" for character in job_id)
            reply = runner.run(service.handle({"id": name, "input": dict(job_input)}))
            if "error" in reply:
                raise Internal(str(reply["error"]))
            return reply, store / name

        yield service, run


def _speed(service: Any, run: Any, rounds: int, out: Path) -> None:
    import numpy as np

    from darkroom.bench import injection_speed
    from darkroom.bench.injection import drawn_people, photo_of
    from darkroom.bench.machine import commit, machine

    photo = photo_of(drawn_people(1, 0)[0], np.random.default_rng(0))
    editor, eyes = service.shelf.editor("image"), service.shelf.vision()
    result = injection_speed.compare(photo, editor, eyes, run, rounds=rounds)
    whole = {"commit": commit(), "machine": machine(), **result}
    (out / "speed.json").write_text(json.dumps(whole, indent=1) + "\n")
    typer.echo(injection_speed.told(result))


def _study(
    quick: bool, only: list[str], install: str | None, train_people: int | None, test_people: int | None,
    epochs: int | None, run: Any, out: Path,
) -> None:  # fmt: skip
    from dataclasses import replace

    from darkroom.bench.injection import Plan, pick, study, table
    from darkroom.bench.injection_plots import plots
    from darkroom.bench.machine import commit, machine

    chosen = pick(quick, only, install, epochs or (8 if quick else None))
    plan = Plan(train_people=48, test_people=6) if quick else Plan()
    plan = replace(
        plan, train_people=train_people or plan.train_people, test_people=test_people or plan.test_people
    )
    rows = study(plan, chosen, run, out, lambda line: typer.secho(line, err=True, dim=True))
    result = {"commit": commit(), "machine": machine(), "rows": rows}
    (out / "injection.json").write_text(json.dumps(result, indent=1) + "\n")
    (out / "injection.md").write_text(table(rows) + "\n")
    (out / "injection.png").write_bytes(plots(rows))
    typer.echo(table(rows))


def _ship(variant: str, out: Path) -> None:
    from darkroom.bench.injection import file_name, ship

    ship(out / "heads" / f"{file_name(variant)}.safetensors")
    typer.secho(f"the head of {variant} ships now", err=True, dim=True)
