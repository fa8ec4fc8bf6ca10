"""Train the pocket's parts from nothing but a seed; each stage resumes where it stopped, and is judged at its end.

edit: the family that edits and draws, by the stages VAE, sight, pairs and flow. qwen3vl: the finer sight beside it.
lightning: the LoRA of four steps. bridge: from the one's sight to the other's. perceptual, identity: two rulers.
"""

import argparse
import copy
import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from diffusers import QwenImageEditPlusPipeline

from darkroom.models.presets import Preset
from darkroom.models.vision import VisionExtractor
from darkroom.models.weights import sha256
from darkroom.pocket.bar import stage_bar
from darkroom.pocket.begun import OtherRecipe, keep_to, settings_of
from darkroom.pocket.evaluate import PORTRAIT, held_out, vae_figures
from darkroom.pocket.family import assemble, save
from darkroom.pocket.judging.grids import draw_grid
from darkroom.pocket.judging.rules import is_right
from darkroom.pocket.judging.samples import apply, load_editor
from darkroom.pocket.qwen3vl import make_model, make_processor
from darkroom.pocket.qwen3vl import save as save_qwen3vl
from darkroom.pocket.recipes import RECIPES, Recipe, with_kinds, with_shards
from darkroom.pocket.shipped import WEIGHTS, install
from darkroom.pocket.stages.bridge_stage import save_bridge, train_bridge
from darkroom.pocket.stages.checkpoint import load_checkpoint, save_checkpoint
from darkroom.pocket.stages.course import Course, OutOfTime, Report, Show
from darkroom.pocket.stages.encoders import save_half
from darkroom.pocket.stages.flow_stage import train_flow
from darkroom.pocket.stages.identity_stage import judge_identity, train_identity
from darkroom.pocket.stages.lightning_stage import distill, save_lora
from darkroom.pocket.stages.pairs import Pairs, balanced, draw_rendered, encoders_digest, join, load_or_make
from darkroom.pocket.stages.perceptual_stage import judge_perceptual, train_perceptual
from darkroom.pocket.stages.qwen3vl_stage import judge_qwen3vl, train_qwen3vl
from darkroom.pocket.stages.sight_stage import judge_sight, train_sight
from darkroom.pocket.stages.transformer_start import start_transformer
from darkroom.pocket.stages.vae_stage import polish_decoder, train_vae
from darkroom.pocket.tokens import train_tokenizer
from darkroom.pocket.world.edits import KINDS

# Folders of `work`, and of the shipped weights.
_BRIDGED = {"family": "edit", "qwen3vl": "qwen3vl"}
# In the LoRA's folder: which transformer it was made for.
_ABOUT = "about.json"
PARTS = ("edit", "lightning", "qwen3vl", "bridge", "perceptual", "identity")
DEVICES = ("cpu", "cuda")
# How the family is judged at the end of its training.
_JUDGED_WITH = Preset(steps=8, true_cfg_scale=1.0)


def train(work: Path, recipe: Recipe, course: Course, threads: int = 0, begin_with: Path | None = None) -> Path:
    """Run every stage that `work` does not hold yet and return the folder of the trained family.

    `begin_with` is a family whose training goes on, with fresh optimizers, where `work` holds no checkpoint: its VAE
    and sight stay, its transformer and text encoder learn further, perhaps other kinds of edits.
    The same recipe gives the same weights on the same machine and number of threads, interrupted or not. With
    `threads` 0 the flow stage takes the cores that other processes leave free, and sums round differently each time.
    Raises OutOfTime when the course's minutes are over, OtherRecipe where `work` was begun with another family or none.
    """
    if _finished(work, "flow", recipe.flow.steps):
        return work / "family"
    keep_to(work, "begin_with", {} if begin_with is None else _parts_of(begin_with))
    if threads:
        torch.set_num_threads(threads)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        pipeline = assemble()
    if begin_with is not None:
        pipeline = _adopt(begin_with, work)
    else:
        _vae(pipeline, work, recipe, course)
        _sight(pipeline, work, recipe, course)
        start_transformer(pipeline.transformer)
    sets = [_pairs(pipeline, name, work, recipe, course) for name in recipe.shards]
    course.begin("flow", recipe.flow.steps)
    train_flow(
        pipeline.transformer,
        pipeline.text_encoder,
        sets,
        pipeline.tokenizer,
        recipe.flow,
        work / "flow.pt",
        course,
        yielding=not threads and course.device.type == "cpu",
    )
    save(pipeline, work / "family")
    met = {kind for pairs in sets for kind in pairs.kinds}
    figures = _family_figures(work, [kind for kind in KINDS if kind in met], recipe.cases)
    _tell(work, "flow", recipe.flow.steps, figures, course)
    return work / "family"


def train_lightning(work: Path, recipe: Recipe, course: Course) -> Path:
    """Distil the `fast` preset's LoRA from the family in `work`, or from the shipped one where there is none.

    Where that has changed since, it begins anew.
    """
    family = work / "family" if (work / "family").is_dir() else WEIGHTS / "edit"
    own, base = recipe.lightning, sha256(_weights(family / "transformer"))
    stage, folder = f"lightning_{base[:8]}", work / "lightning"
    about = folder / _ABOUT
    if about.exists() and json.loads(about.read_text())["base"] == base and _finished(work, stage, own.steps):
        return folder
    pipeline = QwenImageEditPlusPipeline.from_pretrained(family)
    shown = replace(recipe, shards=own.shards, times=own.times)
    sets = [_pairs(pipeline, name, work, shown, course) for name in shown.shards]
    course.begin("lightning", own.steps)
    _, ends = distill(
        pipeline.transformer, pipeline.text_encoder, sets, pipeline.tokenizer, own, work / f"{stage}.pt", course
    )
    save_lora(pipeline.transformer, folder)
    held_out = dict(zip(shown.shards, map(asdict, ends), strict=True))
    about.write_text(json.dumps({"base": base, "held_out": held_out}, indent=2) + "\n")
    told = {f"{name} {side}": error for name, errors in held_out.items() for side, error in errors.items()}
    _tell(work, stage, own.steps, told, course)
    return folder


def train_vision(work: Path, recipe: Recipe, course: Course) -> Path:
    """Train the pocket Qwen3-VL, from its checkpoint in `work` if there is one, and return its folder."""
    steps = recipe.qwen3vl.steps
    if _finished(work, "qwen3vl", steps):
        return work / "qwen3vl"
    course.begin("qwen3vl", steps)
    tokenizer = train_tokenizer()
    processor = make_processor(tokenizer)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        model = make_model(tokenizer)
    train_qwen3vl(model, processor, recipe.qwen3vl, work / "qwen3vl.pt", course)
    save_qwen3vl(model, processor, work / "qwen3vl")
    _tell(work, "qwen3vl", steps, judge_qwen3vl(model, processor, work / "qwen3vl.pt", 10 * recipe.cases), course)
    return work / "qwen3vl"


def train_the_bridge(work: Path, recipe: Recipe, course: Course) -> Path:
    """Train the bridge between the family and the Qwen3-VL in `work`; of what is not there, the shipped one serves.

    Where either has changed since, it begins anew.
    """
    family, sight = (work / part if (work / part).is_dir() else WEIGHTS / ship for part, ship in _BRIDGED.items())
    models = sha256(_weights(family / "text_encoder"))[:8] + sha256(_weights(sight))[:8]
    epochs, checkpoint = recipe.bridge.epochs, work / f"bridge_{models}.pt"
    if checkpoint.exists() and _finished(work, "bridge", epochs, models):
        return work / "bridge"
    course.begin("bridge", epochs)
    eyes = VisionExtractor.load(sight, torch.device("cpu"), language=False)
    bridge, told = train_bridge(load_editor(family), eyes, recipe.bridge, checkpoint, course)
    save_bridge(bridge, work / "bridge" / "bridge.safetensors")
    _tell(work, "bridge", epochs, {"loss": told[-1], "loss without it": told[0]}, course, models)
    return work / "bridge"


def train_perceptual_ruler(work: Path, recipe: Recipe, course: Course) -> Path:
    """Train the encoder that says which pictures look alike, where `work` does not hold it yet."""
    file, checkpoint = work / "perceptual" / "encoder.safetensors", work / "perceptual.pt"
    if not file.exists():
        course.begin("perceptual", recipe.perceptual.steps)
        encoder, _ = train_perceptual(recipe.perceptual, checkpoint, course)
        figures = judge_perceptual(encoder, checkpoint, 10 * recipe.cases)
        _tell(work, "perceptual", recipe.perceptual.steps, figures, course)
        save_half(encoder, file)
    return file.parent


def train_identity_ruler(work: Path, recipe: Recipe, course: Course) -> Path:
    """Train the encoder that reads a person's attributes, where `work` does not hold it yet."""
    file = work / "identity" / "encoder.safetensors"
    if not file.exists():
        course.begin("identity", recipe.identity.steps)
        encoder, _ = train_identity(recipe.identity, work / "identity.pt", course)
        _tell(work, "identity", recipe.identity.steps, judge_identity(encoder, 10 * recipe.cases), course)
        save_half(encoder, file)
    return file.parent


def train_parts(
    parts: Sequence[str], work: Path, recipe: Recipe, course: Course, threads: int = 0, begin_with: Path | None = None
) -> dict[str, Path]:
    """The folder of each of `parts` (PARTS), trained as far as `work` does not hold it yet.

    Raises OutOfTime when the course's minutes are over; the same call goes on from there. Raises OtherRecipe where one
    of them was begun in `work` with other settings.
    """
    for part in parts:
        keep_to(work, part, settings_of(part, recipe))
    if threads:
        torch.set_num_threads(threads)
    training: Mapping[str, Callable[[], Path]] = {
        "edit": partial(train, work, recipe, course, threads, begin_with),
        "lightning": partial(train_lightning, work, recipe, course),
        "qwen3vl": partial(train_vision, work, recipe, course),
        "bridge": partial(train_the_bridge, work, recipe, course),
        "perceptual": partial(train_perceptual_ruler, work, recipe, course),
        "identity": partial(train_identity_ruler, work, recipe, course),
    }
    return {part: training[part]() for part in PARTS if part in parts}


def export(work: Path, seed: int = 0) -> Path:
    """The family as far as training in `work` has come, with the averaged weights: judge it while training goes on."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        pipeline = assemble()
    _restore_vae(pipeline, work / "vae_done.pt")
    pipeline.text_encoder.load_state_dict(_needed(work / "sight_done.pt"))
    average = _needed(work / "flow.pt")["average"]
    parts = {"transformer": pipeline.transformer, "text": pipeline.text_encoder.model.language_model}
    for part, model in parts.items():
        model.load_state_dict({k.removeprefix(part + "."): v for k, v in average.items() if k.startswith(part + ".")})
    folder = work / "exported"
    save(pipeline, folder)
    return folder


def _parts_of(family: Path) -> dict[str, str]:
    return {part: sha256(_weights(family / part)) for part in ("vae", "text_encoder", "transformer")}


def _adopt(family: Path, work: Path) -> QwenImageEditPlusPipeline:
    """A finished family as the start of more training; `export` finds its first stages in `work`."""
    pipeline = QwenImageEditPlusPipeline.from_pretrained(family)
    _keep_vae(pipeline, work / "vae_done.pt")
    save_checkpoint(work / "sight_done.pt", pipeline.text_encoder.state_dict())
    return pipeline


def _vae(pipeline: QwenImageEditPlusPipeline, work: Path, recipe: Recipe, course: Course) -> None:
    """The VAE, then its decoder once more; each is kept and judged when it is finished."""
    stages = {
        "vae": (recipe.vae, train_vae, work / "vae_coded.pt"),
        "decoder": (recipe.decoder, polish_decoder, work / "vae_done.pt"),
    }
    if (work / "vae_done.pt").exists():
        _restore_vae(pipeline, work / "vae_done.pt")
        return
    for stage, (settings, fit, done) in stages.items():
        if not done.exists():
            course.begin(stage, settings.steps)
            fit(pipeline.vae, settings, work / f"{stage}.pt", course)
            _tell(work, stage, settings.steps, _vae_figures(pipeline, 4 * recipe.cases), course)
            _keep_vae(pipeline, done)
        _restore_vae(pipeline, done)


def _vae_figures(pipeline: QwenImageEditPlusPipeline, cases: int) -> dict[str, float]:
    """PSNR in dB of what the engine makes of held-out pictures, with the weights rounded as files hold them."""
    with TemporaryDirectory() as folder:
        # Saving leaves notes in the tokenizer, which the family's own saving would write down.
        save(copy.deepcopy(pipeline), Path(folder))
        return vae_figures(load_editor(Path(folder)), cases)


def _keep_vae(pipeline: QwenImageEditPlusPipeline, path: Path) -> None:
    statistics = {name: list(pipeline.vae.config[name]) for name in ("latents_mean", "latents_std")}
    save_checkpoint(path, {"weights": pipeline.vae.state_dict(), **statistics})


def _restore_vae(pipeline: QwenImageEditPlusPipeline, path: Path) -> None:
    state = _needed(path)
    pipeline.vae.load_state_dict(state["weights"])
    pipeline.vae.register_to_config(latents_mean=state["latents_mean"], latents_std=state["latents_std"])


def _sight(pipeline: QwenImageEditPlusPipeline, work: Path, recipe: Recipe, course: Course) -> None:
    path, text_encoder, processor = work / "sight_done.pt", pipeline.text_encoder, pipeline.processor
    if not path.exists():
        course.begin("sight", recipe.sight.steps)
        train_sight(text_encoder, processor, recipe.sight, work / "sight.pt", course)
        figures = judge_sight(text_encoder, processor, work / "sight.pt", 10 * recipe.cases)
        _tell(work, "sight", recipe.sight.steps, figures, course)
        save_checkpoint(path, text_encoder.state_dict())
    text_encoder.load_state_dict(_needed(path))


def _pairs(pipeline: QwenImageEditPlusPipeline, name: str, work: Path, recipe: Recipe, course: Course) -> Pairs:
    count, draws = recipe.shards[name]
    shards, encoders = [], encoders_digest(pipeline)
    for number in range(recipe.seed, recipe.seed + count):
        path = work / f"{name}_{number}_{draws}_{encoders}.pt"
        if not path.exists():
            course.begin(path.stem, draws)
        shards.append(load_or_make(path, pipeline, partial(draw_rendered, name, number), draws, course))
        course.report(f"{name}: shard {len(shards)} of {count}, {len(shards[-1])} examples")
    return balanced(join(shards), recipe.times)


def _family_figures(work: Path, kinds: Sequence[str], cases: int) -> dict[str, float]:
    """The share of held-out edits of each kind that the rules call right; pictures of them under `work`/scores."""
    editor, figures = load_editor(work / "family"), {}
    for kind in kinds:
        edits = [held_out(kind, number) for number in range(cases)]
        results = [apply(editor, edit, 0, _JUDGED_WITH) for edit in edits]
        rows = [(edit, result, is_right(edit, result)) for edit, result in zip(edits, results, strict=True)]
        draw_grid(work / "scores" / "flow" / f"{kind.replace(' ', '_')}.png", rows)
        figures[kind] = sum(right for *_, right in rows) / cases
    return figures


def _tell(
    work: Path, stage: str, steps: int, figures: Mapping[str, float], course: Course, models: str | None = None
) -> None:
    """Print what held-out cases say of a stage, and write it to `work`/scores: now the stage is finished.

    models: what it was made for, where that may change.
    """
    course.report(f"{stage}, held out: " + ", ".join(f"{name} {value:.3g}" for name, value in figures.items()))
    path = work / "scores" / f"{stage}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"steps": steps, "models": models, "held_out": dict(figures)}, indent=2) + "\n")


def _finished(work: Path, stage: str, steps: int, models: str | None = None) -> bool:
    """Whether so many steps of a stage have been made and judged, for these models."""
    path = work / "scores" / f"{stage}.json"
    if not path.exists():
        return False
    told = json.loads(path.read_text())
    return bool(told["steps"] >= steps and told["models"] == models)


def _weights(folder: Path) -> Path:
    return next(folder.glob("*.safetensors"))


def _needed(path: Path) -> dict[str, Any]:
    state = load_checkpoint(path)
    if state is None:
        raise FileNotFoundError(f"{path} is missing: run the training first")
    return state


def choose_device(name: str | None) -> torch.device:
    """The named device; None takes a GPU where there is one. Raises ValueError where it is not there."""
    there = torch.cuda.is_available()
    if name == "cuda" and not there:
        raise ValueError("device: cuda is not there; take cpu")
    return torch.device(name or ("cuda" if there else "cpu"))


def choose_recipe(
    name: str | None,
    device: torch.device,
    steps: int | None = None,
    shards: int | None = None,
    kinds: Sequence[str] | None = None,
    compiled: bool | None = None,
) -> Recipe:
    """The named recipe, by default the device's, with the flow's steps, shards and kinds that are given.

    Raises ValueError for kinds that it does not draw.
    """
    recipe = with_shards(RECIPES[name or ("gpu" if device.type == "cuda" else "cpu")], shards)
    flow = replace(recipe.flow, steps=steps or recipe.flow.steps)
    if compiled is not None:
        flow = replace(flow, compiled=compiled)
        recipe = replace(recipe, vae=replace(recipe.vae, compiled=compiled))
    return with_kinds(replace(recipe, flow=flow), kinds)


def make_course(device: torch.device, minutes: float | None, report: Report, show: Show) -> Course:
    """A run on `device`. Raises ValueError for minutes that are none. A GPU is served by the other cores' drawing."""
    if minutes is not None and not 0 < minutes < float("inf"):
        raise ValueError(f"minutes: {minutes:g} is no time; give more than 0")
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
    put_in_place: bool,
) -> None:
    """`train_parts`, and say where it has come to; finished parts may replace the shipped ones."""
    course.report(f"training on {course.device.type}")
    try:
        made = train_parts(parts, work, recipe, course, threads, begin_with)
    except OutOfTime as stopped:
        left = "; nothing is installed before it is finished" if put_in_place else ""
        course.report(f"the minutes are over in {stopped}; the same command goes on from there{left}")
        return
    place(made, course.report, put_in_place)


def place(made: Mapping[str, Path], report: Report, put_in_place: bool) -> None:
    """Say where finished parts are, and put them in the shipped weights' place if so wanted."""
    for name, folder in made.items():
        if put_in_place:
            install(folder, WEIGHTS / name)
        report(f"{name}: {WEIGHTS / name if put_in_place else folder}")
    if put_in_place and not lightning_fits(WEIGHTS):
        report(
            "lightning was made for another transformer than edit has: darkroom pocket train --part lightning --install"
        )


def lightning_fits(weights: Path) -> bool:
    """Whether the `fast` preset's LoRA in `weights` was made for the family there."""
    base: str = json.loads((weights / "lightning" / _ABOUT).read_text())["base"]
    return base == sha256(_weights(weights / "edit" / "transformer"))


def main(arguments: Sequence[str] | None = None) -> None:
    """`python -m darkroom.pocket.train`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, default=Path("training"))
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--minutes", type=float, help="stop after so long, with a checkpoint; no limit by default")
    parser.add_argument("--device", choices=DEVICES, help="cuda where there is one by default")
    parser.add_argument("--recipe", choices=RECIPES, help="the device's by default; smoke: a few steps of everything")
    parser.add_argument("--steps", type=int, help="steps of the flow stage; the recipe's by default")
    parser.add_argument("--shards", type=int, help="shards of the edits on one square picture")
    parser.add_argument("--begin-with", type=Path, help="a family whose training goes on, such as the shipped one")
    parser.add_argument("--kinds", nargs="+", choices=(*KINDS, PORTRAIT), help="what to teach; by default all")
    parser.add_argument("--threads", type=int, default=0, help="0: what other processes leave free")
    parser.add_argument("--compile", action=argparse.BooleanOptionalAction, help="by default as the recipe says")
    parser.add_argument("--export", action="store_true", help="only write what the checkpoints hold")
    parser.add_argument("--install", action="store_true", help="put the result in the place of the shipped weights")
    options = parser.parse_args(arguments)
    with stage_bar() as show:
        try:
            device = choose_device(options.device)
            recipe = choose_recipe(
                options.recipe, device, options.steps, options.shards, options.kinds, options.compile
            )
            course = make_course(device, options.minutes, _say, show)
            if options.begin_with and not (options.begin_with / "model_index.json").is_file():
                raise ValueError(f"begin-with: there is no family in {options.begin_with}")
        except ValueError as error:
            parser.error(f"--{error}")
        try:
            if options.export:
                place({"edit": export(options.work)}, _say, options.install)
            else:
                train_and_tell(
                    options.parts, options.work, recipe, course, options.threads, options.begin_with, options.install
                )
        except (OtherRecipe, FileNotFoundError) as error:
            parser.error(str(error))


def _say(line: str) -> None:
    print(line, flush=True)


if __name__ == "__main__":
    main()
