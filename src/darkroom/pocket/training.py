"""One call of `darkroom pocket train`: what its options mean, how far it came, and what is put in place."""

import json
import os
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from pydantic import TypeAdapter, ValidationError

from darkroom.models import lora
from darkroom.models.bridge import MADE_FOR, from_bytes, made_between
from darkroom.models.weights import weights_digest
from darkroom.pocket.evaluate import PORTRAIT
from darkroom.pocket.parts import train_parts
from darkroom.pocket.recipes import RECIPES, Recipe, with_kinds, with_shards
from darkroom.pocket.shipped import WEIGHTS, install
from darkroom.pocket.stages.course import Course, OutOfTime, Report, Show
from darkroom.pocket.stages.drawing import TEACHES
from darkroom.pocket.stages.flow_stage import FlowRecipe
from darkroom.pocket.world.edits import KINDS

DEVICES = ("cpu", "cuda")

_HEAD = (
    "injection: its head is trained by the worker's own jobs, on the weights in the shipped ones' place: "
    "darkroom bench injection --only defaults --install defaults"
)


def choose_device(name: str | None) -> torch.device:
    """The named device; None takes a GPU where there is one. Raises ValueError where it is not there."""
    there = torch.cuda.is_available()
    if name == "cuda" and not there:
        raise ValueError("--device: cuda is not there; take cpu")
    return torch.device(name or ("cuda" if there else "cpu"))


def choose_recipe(
    name: str | None,
    device: torch.device,
    *,
    steps: int | None = None,
    shards: int | None = None,
    kinds: Sequence[str] | None = None,
    compiled: bool | None = None,
    train_text: bool = True,
    goes_on: bool = False,
    settings: Sequence[str] = (),
) -> Recipe:
    """The named recipe, by default the device's, with what is given in the place of its own.

    steps, train_text: of the flow stage. goes_on: it begins with a family, which can read already; then, and where
    `kinds` are chosen, none of them is taught alone at first. settings: as `with_settings` takes them. Raises
    ValueError that names the option, also for kinds that the recipe does not draw, and for shards of what these kinds
    do not draw.
    """
    recipe = with_shards(RECIPES[name or ("gpu" if device.type == "cuda" else "cpu")], shards)
    flow = replace(recipe.flow, steps=steps or recipe.flow.steps, train_text=train_text)
    if goes_on or kinds is not None:
        flow = replace(flow, alone=0.0)
    if goes_on:
        usual = FlowRecipe()
        flow = replace(flow, reading=0, naming=usual.naming, hearing=usual.hearing, pointing=usual.pointing)
    if compiled is not None:
        flow = replace(flow, compiled=compiled)
        recipe = replace(recipe, vae=replace(recipe.vae, compiled=compiled))
    recipe = with_kinds(replace(recipe, flow=flow), kinds)
    if shards is not None and "pairs" not in recipe.shards:
        chosen = ", ".join(kinds or ())
        raise ValueError(f"--shards: counts edits of one square picture, and --kind {chosen} draws none")
    return with_settings(recipe, settings)


def with_settings(recipe: Recipe, settings: Sequence[str]) -> Recipe:
    """`recipe` with single values replaced: "flow.cooldown=0.5", "times.follow=8", "shards.pairs=[20, 2500]".

    Names are those of recipe.json in a training's folder. Raises ValueError for one that is none, or a value that is
    not of its type or out of its range.
    """
    if not settings:
        return recipe
    whole = asdict(recipe)
    for setting in settings:
        name, _, value = setting.partition("=")
        *parts, last = name.split(".")
        place: Any = whole
        for part in parts:
            place = place.get(part) if isinstance(place, dict) else None
        kind = parts == ["times"] and last in (*KINDS, PORTRAIT)
        if not isinstance(place, dict) or isinstance(place.get(last), dict) or not (last in place or kind):
            raise ValueError(f"--set: {name!r} is no setting of a recipe; take one such as flow.cooldown=0.5")
        try:
            place[last] = json.loads(value)
        except json.JSONDecodeError as error:
            raise ValueError(f"--set: {setting!r} gives {name} no JSON value; take one such as {name}=2") from error
    try:
        chosen = TypeAdapter(Recipe).validate_python(whole)
    except ValidationError as error:
        first = error.errors()[0]
        told = ".".join(map(str, first["loc"]))
        raise ValueError(f"--set: {told}: {first['msg'][0].lower()}{first['msg'][1:]}") from error
    if fault := _together(chosen):
        raise ValueError(f"--set: {fault}")
    return chosen


def _together(recipe: Recipe) -> str | None:
    """What is wrong with settings that are right one by one."""
    if recipe.bridge.held_out >= recipe.bridge.triples:
        return f"bridge.held_out: leaves nothing to learn from; bridge.triples is {recipe.bridge.triples}"
    if unknown := sorted(set(recipe.flow.first) - set(KINDS)):
        return f"flow.first: {', '.join(unknown)}: not one of {', '.join(KINDS)}"
    if not any(recipe.times.get(kind, 1) for name in recipe.shards for kind in TEACHES[name]):
        return "times: is 0 for every kind, which leaves nothing to learn from"
    return None


def make_course(device: torch.device, minutes: float | None, report: Report, show: Show) -> Course:
    """A run on `device`. Raises ValueError for minutes that are none. A GPU is served by the other cores' drawing."""
    if minutes is not None and not 0 < minutes < float("inf"):
        raise ValueError(f"--minutes: {minutes:g} is no time; give more than 0")
    if device.type == "cpu":
        return Course(report, show=show, device=device, minutes=minutes)
    workers = min(16, max(1, (os.cpu_count() or 1) - 1))
    return Course(report, show=show, device=device, minutes=minutes, every=1000, workers=workers)


def train_and_tell(
    parts: Sequence[str],
    work: Path,
    recipe: Recipe,
    course: Course,
    threads: int,
    begin_with: Path | None,
    sight_of: Path | None,
    put_in_place: bool,
) -> None:
    """`train_parts`, and say where it has come to; finished parts may replace the shipped ones."""
    course.report(f"training on {course.device.type}")
    try:
        made = train_parts(parts, work, recipe, course, threads, begin_with, sight_of)
    except OutOfTime as stopped:
        left = "; nothing is installed before it is finished" if put_in_place else ""
        course.report(f"the minutes are over in {stopped}; the same command goes on from there{left}")
        return
    place(made, course.report, put_in_place)


def place(made: Mapping[str, Path], report: Report, put_in_place: bool) -> None:
    """Say where finished parts are, and put them in the shipped weights' place if so wanted; say what must follow."""
    for name, folder in made.items():
        if put_in_place:
            install(folder, WEIGHTS / name)
        report(f"{name}: {WEIGHTS / name if put_in_place else folder}")
    if put_in_place and not lightning_fits(WEIGHTS):
        report(f"lightning was made for another transformer than edit has: {_command(WEIGHTS, 'lightning')}")
    if put_in_place and not bridge_fits(WEIGHTS):
        report(f"bridge was made for another sight than these: {_command(WEIGHTS, 'bridge')}")
    if put_in_place and {"edit", "qwen3vl"} & set(made):
        report(_HEAD)


def _command(weights: Path, part: str) -> str:
    """What makes `part` for the weights in place: in a folder of their own, since another may hold another family."""
    family, sight = weights / "edit", weights / "qwen3vl"
    folders = [*(family / name for name in ("vae", "text_encoder", "transformer")), sight]
    work = "training/" + "".join(weights_digest(folder)[:3] for folder in folders)
    return f"darkroom pocket train --part {part} --begin-with {shlex.quote(str(family))} --work {work} --install"


def lightning_fits(weights: Path) -> bool:
    """Whether the `fast` preset's LoRA in `weights` was made for the family there."""
    return lora.made_for(weights / "lightning") == weights_digest(weights / "edit" / "transformer")


def bridge_fits(weights: Path) -> bool:
    """Whether the bridge in `weights` was made for the sight of the family and of the Qwen3-VL there."""
    bridge = from_bytes((weights / "bridge" / "bridge.safetensors").read_bytes())
    return bridge.about.get(MADE_FOR) == made_between(weights / "edit" / "text_encoder", weights / "qwen3vl")
