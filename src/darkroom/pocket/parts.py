"""The pocket's parts, each trained from nothing but a seed; each resumes where it stopped, and is judged at its end.

edit: the family that edits and draws. qwen3vl: the finer sight beside it. lightning: the LoRA of four steps. bridge:
from the one's sight to the other's. perceptual, identity: two rulers.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

import torch
from diffusers import QwenImageEditPlusPipeline

from darkroom.models.bridge import made_between
from darkroom.models.lora import ABOUT, BASE, made_for
from darkroom.models.vision import VisionExtractor
from darkroom.models.weights import weights_digest
from darkroom.pocket.begun import keep_all, settings_of
from darkroom.pocket.evaluate import HELD_OUT_SEED
from darkroom.pocket.family_training import examples, family_of, train_family
from darkroom.pocket.finished import finished, tell
from darkroom.pocket.folders import is_family
from darkroom.pocket.judging.samples import load_editor
from darkroom.pocket.qwen3vl import make_model, make_processor
from darkroom.pocket.qwen3vl import save as save_qwen3vl
from darkroom.pocket.recipes import Recipe
from darkroom.pocket.shipped import WEIGHTS, check
from darkroom.pocket.stages.bridge_stage import save_bridge, train_bridge
from darkroom.pocket.stages.course import Course
from darkroom.pocket.stages.drawing import draw_set
from darkroom.pocket.stages.encoders import save_half
from darkroom.pocket.stages.identity_stage import judge_identity, train_identity
from darkroom.pocket.stages.lesson import Lesson
from darkroom.pocket.stages.lightning_stage import distill, save_lora
from darkroom.pocket.stages.pairs import encode_all
from darkroom.pocket.stages.perceptual_stage import judge_perceptual, train_perceptual
from darkroom.pocket.stages.qwen3vl_stage import judge_qwen3vl, train_qwen3vl
from darkroom.pocket.tokens import train_tokenizer

PARTS = ("edit", "lightning", "qwen3vl", "bridge", "perceptual", "identity")
"""The folders of the shipped weights that are trained here."""
MADE_FOR_A_FAMILY = ("edit", "lightning", "bridge")
"""Those that a family to begin with changes."""


def train_lightning(work: Path, recipe: Recipe, course: Course, begin_with: Path | None = None) -> Path:
    """Distil the `fast` preset's LoRA from the family in `work`, where there is none from `begin_with` or the shipped.

    Where that has changed since, it begins anew. Raises as `family_of`.
    """
    family = family_of(work, begin_with)
    own, base = recipe.lightning, weights_digest(family / "transformer")
    stage, folder = f"lightning_{base[:8]}", work / "lightning"
    if made_for(folder) == base and finished(work, stage, own.steps):
        return folder
    course.report(f"lightning: for {family}")
    pipeline = QwenImageEditPlusPipeline.from_pretrained(family)
    shown = replace(recipe, shards=own.shards, times=own.times)
    lessons = [examples(pipeline, name, work, shown, course) for name in shown.shards]
    kept_out = [
        Lesson.of(encode_all(pipeline, draw_set(name, HELD_OUT_SEED, own.held_out)), pipeline.tokenizer, own.times)
        for name in shown.shards
    ]
    course.begin("lightning", own.steps)
    _, ends = distill(
        pipeline.transformer, pipeline.text_encoder, lessons, kept_out, own, work / f"{stage}.pt", course
    )
    save_lora(pipeline.transformer, folder)
    held_out = dict(zip(shown.shards, map(asdict, ends), strict=True))
    (folder / ABOUT).write_text(json.dumps({BASE: base, "held_out": held_out}, indent=2) + "\n")
    told = {f"{name} {side}": error for name, errors in held_out.items() for side, error in errors.items()}
    tell(work, stage, own.steps, told, course)
    return folder


def train_vision(work: Path, recipe: Recipe, course: Course) -> Path:
    """Train the pocket Qwen3-VL, from its checkpoint in `work` if there is one, and return its folder."""
    steps = recipe.qwen3vl.steps
    if finished(work, "qwen3vl", steps):
        return work / "qwen3vl"
    course.begin("qwen3vl", steps)
    tokenizer = train_tokenizer()
    processor = make_processor(tokenizer)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        model = make_model(tokenizer)
    train_qwen3vl(model, processor, recipe.qwen3vl, work / "qwen3vl.pt", course)
    save_qwen3vl(model, processor, work / "qwen3vl")
    tell(work, "qwen3vl", steps, judge_qwen3vl(model, processor, work / "qwen3vl.pt", 10 * recipe.cases), course)
    return work / "qwen3vl"


def train_the_bridge(work: Path, recipe: Recipe, course: Course, begin_with: Path | None = None) -> Path:
    """Train the bridge between the family and the Qwen3-VL in `work`; of what is not there, the shipped one serves.

    Where either's sight has changed since, it begins anew. `begin_with`: as for `train_lightning`.
    """
    family = family_of(work, begin_with)
    sight = work / "qwen3vl" if (work / "qwen3vl").is_dir() else WEIGHTS / "qwen3vl"
    check(sight)
    between = made_between(family / "text_encoder", sight)
    models = "".join(digest[:8] for digest in between.values())
    epochs, checkpoint = recipe.bridge.epochs, work / f"bridge_{models}.pt"
    if checkpoint.exists() and finished(work, "bridge", epochs, models):
        return work / "bridge"
    course.report(f"bridge: between {sight} and {family}")
    course.begin("bridge", epochs)
    eyes = VisionExtractor.load(sight, torch.device("cpu"), language=False)
    bridge, told = train_bridge(load_editor(family), eyes, recipe.bridge, checkpoint, course)
    save_bridge(bridge, work / "bridge" / "bridge.safetensors", between)
    tell(work, "bridge", epochs, {"loss": told[-1], "loss without it": told[0]}, course, models)
    return work / "bridge"


def train_perceptual_ruler(work: Path, recipe: Recipe, course: Course) -> Path:
    """Train the encoder that says which pictures look alike, where `work` does not hold it yet."""
    file, checkpoint = work / "perceptual" / "encoder.safetensors", work / "perceptual.pt"
    if not file.exists():
        course.begin("perceptual", recipe.perceptual.steps)
        encoder, _ = train_perceptual(recipe.perceptual, checkpoint, course)
        figures = judge_perceptual(encoder, checkpoint, 10 * recipe.cases)
        tell(work, "perceptual", recipe.perceptual.steps, figures, course)
        save_half(encoder, file)
    return file.parent


def train_identity_ruler(work: Path, recipe: Recipe, course: Course) -> Path:
    """Train the encoder that reads a person's attributes, where `work` does not hold it yet."""
    file = work / "identity" / "encoder.safetensors"
    if not file.exists():
        course.begin("identity", recipe.identity.steps)
        encoder, _ = train_identity(recipe.identity, work / "identity.pt", course)
        tell(work, "identity", recipe.identity.steps, judge_identity(encoder, 10 * recipe.cases), course)
        save_half(encoder, file)
    return file.parent


def train_parts(
    parts: Sequence[str],
    work: Path,
    recipe: Recipe,
    course: Course,
    threads: int = 0,
    begin_with: Path | None = None,
    sight_of: Path | None = None,
) -> dict[str, Path]:
    """The folder of each of `parts` (PARTS), trained as far as `work` does not hold it yet.

    `begin_with`, `sight_of`: as for `train_family`; the parts that belong to a family are made for that to begin with
    where `work` holds none.
    Raises OutOfTime when the course's minutes are over; the same call goes on from there. Raises OtherRecipe where one
    of them was begun in `work` with other settings, ModelNotReady, which names the file, where a family to take from is
    damaged, and ValueError, which names the option, where there is no family in it, where both are given, or where the
    text encoder of a family that is made from nothing should not learn.
    """
    if begin_with is not None and sight_of is not None:
        raise ValueError("--sight-of: --begin-with brings its own; leave one of them out")
    for option, family in (("--begin-with", begin_with), ("--sight-of", sight_of)):
        if family is None:
            continue
        if not is_family(family):
            raise ValueError(f"{option}: there is no family in {family}")
        check(family)
    if "edit" in parts and begin_with is None and not recipe.flow.train_text:
        raise ValueError("--freeze-text needs --begin-with: a text encoder made from nothing has to learn")
    keep_all(work, {part: settings_of(part, recipe) for part in parts})
    if threads:
        torch.set_num_threads(threads)
    training: Mapping[str, Callable[[], Path]] = {
        "edit": partial(train_family, work, recipe, course, threads, begin_with, sight_of),
        "lightning": partial(train_lightning, work, recipe, course, begin_with),
        "qwen3vl": partial(train_vision, work, recipe, course),
        "bridge": partial(train_the_bridge, work, recipe, course, begin_with),
        "perceptual": partial(train_perceptual_ruler, work, recipe, course),
        "identity": partial(train_identity_ruler, work, recipe, course),
    }
    return {part: training[part]() for part in PARTS if part in parts}
