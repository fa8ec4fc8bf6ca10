"""`darkroom pocket`: build, train and judge the model that ships with Darkroom."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from darkroom.cli_options import told

# Options of `train` that mean nothing where the family is not trained.
_OF_EDIT = ("--steps", "--shards", "--kind", "--sight-of", "--freeze-text", "--compile")

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
    part: Annotated[
        list[str] | None,
        typer.Option(help="edit, lightning, qwen3vl, bridge, perceptual, identity; repeatable, all by default."),
    ] = None,
    minutes: Annotated[
        float | None, typer.Option(help="Stop after so long, with a checkpoint, over all parts; no limit by default.")
    ] = None,
    device: Annotated[
        str | None, typer.Option(help="cpu or cuda; cuda where there is one by default.", metavar="cpu|cuda")
    ] = None,
    recipe: Annotated[
        str | None,
        typer.Option(
            help="The device's by default; short has a quarter of the steps, to try a change, smoke a few.",
            metavar="cpu|short|gpu|smoke",
        ),
    ] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Steps of the flow stage; the recipe's by default.")] = None,
    shards: Annotated[int | None, typer.Option(min=1, help="Shards of edits of one square picture.")] = None,
    kind: Annotated[
        list[str] | None, typer.Option(help="Teach this kind of edit, each example once; repeatable, all by default.")
    ] = None,
    begin_with: Annotated[
        Path | None,
        typer.Option(help="A family whose training goes on, and for which other parts are made.", metavar="FOLDER"),
    ] = None,
    sight_of: Annotated[
        Path | None,
        typer.Option(help="A family whose VAE and sight are taken; all else begins from nothing.", metavar="FOLDER"),
    ] = None,
    freeze_text: Annotated[
        bool, typer.Option("--freeze-text", help="Leave the text encoder of --begin-with as it is.")
    ] = False,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="NAME=VALUE", help="Any of the recipe's, as times.follow=8; repeatable."),
    ] = None,
    compiled: Annotated[
        bool | None, typer.Option("--compile/--no-compile", help="VAE, examples, flow; by default as the recipe says.")
    ] = None,
    threads: Annotated[int, typer.Option(min=0, help="0 takes all, or half of them while others are busy.")] = 0,
    export: Annotated[bool, typer.Option("--export", help="Only write what the checkpoints hold so far.")] = False,
    install: Annotated[bool, typer.Option("--install", help="Put the result in the shipped weights' place.")] = False,
) -> None:
    """Train the pocket's parts, from nothing but a seed or from a family. Takes hours on two cores."""
    from darkroom.pocket import training
    from darkroom.pocket.bar import stage_bar
    from darkroom.pocket.evaluate import PORTRAIT
    from darkroom.pocket.family_training import export as export_family
    from darkroom.pocket.parts import MADE_FOR_A_FAMILY, PARTS
    from darkroom.pocket.recipes import RECIPES
    from darkroom.pocket.world.edits import KINDS

    parts = part or list(PARTS)
    known(parts, PARTS, "--part")
    known(kind, (*KINDS, PORTRAIT))
    known([device] if device else None, training.DEVICES, "--device")
    known([recipe] if recipe else None, list(RECIPES), "--recipe")
    of_training = {
        "--part": part,
        "--minutes": minutes,
        "--recipe": recipe,
        "--steps": steps,
        "--shards": shards,
        "--kind": kind,
        "--begin-with": begin_with,
        "--sight-of": sight_of,
        "--set": settings,
        "--compile": compiled,
        "--freeze-text": freeze_text or None,
        "--threads": threads or None,
        "--device": device,
    }
    of_edit = {name: of_training[name] for name in _OF_EDIT}
    if export and (vain := given(of_training)):
        raise typer.BadParameter(
            f"writes the family that --work holds, however it is trained; leave out {vain}", param_hint="--export"
        )
    if "edit" not in parts and (vain := given(of_edit)):
        raise typer.BadParameter(f"{vain} is of edit alone; leave it out, or train edit too", param_hint="--part")
    if begin_with is not None and not set(parts) & set(MADE_FOR_A_FAMILY):
        raise typer.BadParameter(
            f"{', '.join(parts)} is made for no family; leave it out, or train {', '.join(MADE_FOR_A_FAMILY)} too",
            param_hint="--begin-with",
        )
    with told(), stage_bar() as show:
        on = training.choose_device(device)
        course = training.make_course(on, minutes, typer.echo, show)
        if export:
            training.place({"edit": export_family(work)}, typer.echo, install)
        else:
            chosen = training.choose_recipe(
                recipe,
                on,
                steps=steps,
                shards=shards,
                kinds=kind,
                compiled=compiled,
                train_text=not freeze_text,
                goes_on=begin_with is not None,
                settings=settings or (),
            )
            training.train_and_tell(parts, work, chosen, course, threads, begin_with, sight_of, install)


@pocket.command()
def triples(
    out: Annotated[Path, typer.Argument(help="The zip to write.")] = Path("triples.zip"),
    count: Annotated[int, typer.Option(min=2)] = 1000,
    seed: Annotated[int, typer.Option(min=0, help="The shipped bridge was trained on 0.")] = 0,
    kind: Annotated[
        list[str] | None, typer.Option(help="Repeatable; by default by turns decided by dot and words.")
    ] = None,
) -> None:
    """Draw edit triples of the pocket world, to train a bridge with."""
    from darkroom.pocket.triples import write_pocket_triples
    from darkroom.pocket.world.edits import KINDS

    known(kind, KINDS)
    with told():
        typer.echo(f"{write_pocket_triples(out, count, seed, kind)} triples in {out}")


@pocket.command()
def evaluate(
    weights: Annotated[Path | None, typer.Option(help="A family's folder; the shipped one by default.")] = None,
    out: Annotated[Path, typer.Option("--out", "-o", help="Scores and picture grids.")] = Path("out/pocket"),
    cases: Annotated[int, typer.Option(min=1, help="Held-out edits of each kind.")] = 24,
    steps: Annotated[list[int] | None, typer.Option(min=1, help="Repeatable; 8 by default.")] = None,
    cfg: Annotated[list[float] | None, typer.Option(min=1.0, help="Repeatable; 1 by default.")] = None,
    preset: Annotated[
        list[str] | None, typer.Option(help="fast, balanced or quality, as jobs take them; repeatable, first.")
    ] = None,
    lora: Annotated[Path | None, typer.Option(help="Judged in the place of the LoRA of a preset.", exists=True)] = None,
    seed: Annotated[list[int] | None, typer.Option(min=0, help="Repeatable; 0 by default.")] = None,
    kind: Annotated[list[str] | None, typer.Option(help="Repeatable; by default the kinds that were taught.")] = None,
    size: Annotated[str, typer.Option(metavar="WIDTHxHEIGHT", help="Of the cases, in pixels.")] = "128x128",
) -> None:
    """Judge a family on held-out edits; write scores.json, scores.md and grids."""
    from darkroom.models.presets import POCKET, LoraFile, Preset
    from darkroom.pocket.evaluate import PORTRAIT, parse_size
    from darkroom.pocket.evaluate import evaluate as judge
    from darkroom.pocket.folders import is_family
    from darkroom.pocket.shipped import EDIT, TAUGHT
    from darkroom.pocket.world.edits import KINDS

    known(kind, (*KINDS, PORTRAIT))
    known(preset, tuple(POCKET), "--preset")
    if weights is not None and not is_family(weights):
        raise typer.BadParameter(f"there is no family in {weights}", param_hint="--weights")
    presets = [POCKET[name] for name in preset or ()]
    if lora is not None:
        own = LoraFile(str(lora.resolve().parent), lora.name)
        presets = [replace(chosen, lora=own) if chosen.lora else chosen for chosen in presets]
        if not any(chosen.lora for chosen in presets):
            raise typer.BadParameter("needs a --preset that wears one", param_hint="--lora")
    if not presets or steps or cfg:
        presets += [Preset(number, scale) for number in steps or [8] for scale in cfg or [1.0]]
    try:
        sides = parse_size(size)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--size") from error
    with told():
        judge(weights or EDIT, out, cases, presets, seed or [0], kind or TAUGHT, typer.echo, sides)
        typer.echo((out / "scores.md").read_text())


def given(options: Mapping[str, object]) -> str:
    """The names of those that were given, in one line; empty where none was."""
    return ", ".join(name for name, value in options.items() if value is not None)


def known(names: Sequence[str] | None, allowed: Sequence[str], option: str = "--kind") -> None:
    """Raises typer.BadParameter that names all that is not allowed, and what is."""
    if unknown := set(names or ()) - set(allowed):
        raise typer.BadParameter(f"{', '.join(sorted(unknown))}: not one of {', '.join(allowed)}", param_hint=option)
