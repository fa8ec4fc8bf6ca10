"""`darkroom pocket`: build, train and judge the model that ships with Darkroom."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from darkroom.cli_options import told

pocket = typer.Typer(
    name="pocket",
    help="The pocket model: a whole Qwen-Image-Edit family in miniature, made here from a seed.",
    no_args_is_help=True,
)


@pocket.command()
def build(
    folder: Annotated[Path, typer.Argument(help="Where the family is saved.")],
    seed: Annotated[int, typer.Option(min=0)] = 0,
) -> None:
    """Save the untrained family: the real classes with random weights."""
    from darkroom.pocket.family import build as build_family

    with told():
        typer.echo(str(build_family(folder, seed)))


@pocket.command()
def train(
    work: Annotated[Path, typer.Option(help="Checkpoints; a second call goes on from them.")] = Path("training"),
    steps: Annotated[int | None, typer.Option(min=1, help="Steps of the flow stage; the shipped recipe's by default.")]
    = None,
    shards: Annotated[int | None, typer.Option(min=1, help="Shards of training pairs.")] = None,
    threads: Annotated[int, typer.Option(min=0, help="0 takes what other processes leave free.")] = 0,
    export: Annotated[bool, typer.Option("--export", help="Only write what the checkpoints hold so far.")] = False,
    install: Annotated[bool, typer.Option("--install", help="Put the result in the shipped weights' place.")] = False,
) -> None:
    """Train the family from nothing but a seed. Takes hours on two cores."""
    from darkroom.pocket import train as training
    from darkroom.pocket.shipped import install as put_in_place

    recipe = training.Recipe()
    flow = replace(recipe.flow, steps=steps or recipe.flow.steps)
    recipe = training.with_shards(replace(recipe, flow=flow), shards)
    with told():
        family = training.export(work) if export else training.train(work, recipe, typer.echo, threads)
        if install:
            put_in_place(family)
        typer.echo(str(family))


@pocket.command()
def evaluate(
    weights: Annotated[Path | None, typer.Option(help="A family's folder; the shipped one by default.")] = None,
    out: Annotated[Path, typer.Option("--out", "-o", help="Scores and picture grids.")] = Path("out/pocket"),
    cases: Annotated[int, typer.Option(min=1, help="Held-out edits of each kind.")] = 24,
    steps: Annotated[list[int] | None, typer.Option(min=1, help="Repeatable; 8 by default.")] = None,
    cfg: Annotated[list[float] | None, typer.Option(min=1.0, help="Repeatable; 4 by default.")] = None,
    seed: Annotated[list[int] | None, typer.Option(min=0, help="Repeatable; 0 by default.")] = None,
) -> None:
    """Judge a family on held-out edits; write scores.json, scores.md and grids."""
    from darkroom.pocket.evaluate import evaluate as judge
    from darkroom.pocket.shipped import EDIT

    settings = [(number, scale) for number in steps or [8] for scale in cfg or [4.0]]
    with told():
        judge(weights or EDIT, out, cases, settings, seed or [0], report=typer.echo)
        typer.echo((out / "scores.md").read_text())
