"""The family that edits and draws, by the stages VAE, sight, pairs, flow and path."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from diffusers import QwenImageEditPlusPipeline

from darkroom.models.parts import load_schedule
from darkroom.models.presets import Preset
from darkroom.models.weights import weights_digest
from darkroom.pocket.begun import OtherRecipe, keep_to
from darkroom.pocket.evaluate import held_out, vae_figures
from darkroom.pocket.family import assemble, save
from darkroom.pocket.finished import finished, tell
from darkroom.pocket.judging.grids import draw_grid
from darkroom.pocket.judging.rules import is_right
from darkroom.pocket.judging.samples import apply, load_editor
from darkroom.pocket.recipes import Recipe
from darkroom.pocket.shipped import EDIT, check
from darkroom.pocket.stages.checkpoint import load_checkpoint, save_checkpoint
from darkroom.pocket.stages.course import Course
from darkroom.pocket.stages.flow_stage import train_flow
from darkroom.pocket.stages.lesson import Lesson
from darkroom.pocket.stages.pairs import draw_rendered, encoders_digest, join, load_or_make
from darkroom.pocket.stages.path_stage import train_path
from darkroom.pocket.stages.sight_stage import judge_sight, train_sight
from darkroom.pocket.stages.transformer_start import start_transformer
from darkroom.pocket.stages.vae_stage import polish_decoder, train_vae
from darkroom.pocket.world import VERSION
from darkroom.pocket.world.edits import KINDS

# How the family is judged at the end of its training.
_JUDGED_WITH = Preset(steps=8, true_cfg_scale=1.0)


def train_family(
    work: Path,
    recipe: Recipe,
    course: Course,
    threads: int = 0,
    begin_with: Path | None = None,
    sight_of: Path | None = None,
) -> Path:
    """Run every stage that `work` does not hold yet and return the folder of the trained family.

    `begin_with` is a family whose training goes on, with fresh optimizers, where `work` holds no checkpoint: its VAE
    and sight stay, its transformer and text encoder learn further, perhaps other kinds of edits. `sight_of` is one of
    which VAE and sight are taken, while all else begins from nothing.

    The same recipe gives the same weights on the same machine and number of threads, interrupted or not. With
    `threads` 0 flow and path take all cores, half of them while others are busy, and sums round differently each time.
    Raises OutOfTime when the course's minutes are over, OtherRecipe where `work` was begun with another family or none.
    """
    _keep_to_sight(sight_of, work)
    if begin_with is None and finished(work, "path", recipe.path.steps):
        return work / "family"
    _keep_to(begin_with, work)
    if finished(work, "path", recipe.path.steps):
        return work / "family"
    if threads:
        torch.set_num_threads(threads)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        pipeline = assemble()
    if begin_with is not None:
        pipeline = _adopt(begin_with, work)
    else:
        if sight_of is not None:
            _take_sight(pipeline, sight_of, work)
        _vae(pipeline, work, recipe, course)
        _sight(pipeline, work, recipe, course)
        start_transformer(pipeline.transformer)
    lessons = [examples(pipeline, name, work, recipe, course, recipe.vae.compiled) for name in recipe.shards]
    yielding = not threads and course.device.type == "cpu"
    _flow(pipeline, lessons, work, recipe, course, yielding)
    _path(pipeline, lessons, work, recipe, course, yielding)
    return work / "family"


def export(work: Path, seed: int = 0) -> Path:
    """The family as far as training in `work` has come: judge it while training goes on.

    During the flow stage that is the moving average of its weights, afterwards what the path stage has made of it.
    Raises FileNotFoundError where the flow stage has no checkpoint yet.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        pipeline = assemble()
    _restore_vae(pipeline, work / "vae_done.pt")
    pipeline.text_encoder.load_state_dict(_needed(work / "sight_done.pt"))
    walked = load_checkpoint(work / "path.pt")
    weights = _needed(work / "flow.pt")["average"] | ({} if walked is None else walked["weights"])
    parts = {"transformer": pipeline.transformer, "text": pipeline.text_encoder.model.language_model}
    for part, model in parts.items():
        learned = {k.removeprefix(part + "."): v for k, v in weights.items() if k.startswith(part + ".")}
        # Without its words in there, the text encoder was held still.
        if learned or part != "text":
            model.load_state_dict(learned)
    folder = work / "exported"
    save(pipeline, folder)
    return folder


def family_of(work: Path, begin_with: Path | None) -> Path:
    """The family that other parts are made for: that in `work`, else the one to begin with, else the shipped one.

    Raises OtherRecipe where `work` was begun with another family than `begin_with`, and ModelNotReady, which names the
    file, where the family is damaged.
    """
    if begin_with is not None:
        _keep_to(begin_with, work)
    family = work / "family" if (work / "family").is_dir() else begin_with or EDIT
    check(family)
    return family


def _keep_to(begin_with: Path | None, work: Path) -> None:
    parts = ("vae", "text_encoder", "transformer")
    _keep_to_taken(work, "begin_with", begin_with, parts, f"another family than {begin_with}, or with none")


def _keep_to_sight(sight_of: Path | None, work: Path) -> None:
    _keep_to_taken(work, "sight_of", sight_of, ("vae", "text_encoder"), f"another sight than that of {sight_of}")


def _keep_to_taken(work: Path, name: str, family: Path | None, parts: Sequence[str], other: str) -> None:
    """`keep_to` for parts taken of a family; where `work` was begun otherwise, the error says with what `other`."""
    try:
        keep_to(work, name, {} if family is None else {part: weights_digest(family / part) for part in parts})
    except OtherRecipe as error:
        was = f"a --{name.replace('_', '-')}" if family is None else other
        raise OtherRecipe(f"{work} was begun with {was}; go on as it was begun, or take another --work") from error


def _take_sight(pipeline: QwenImageEditPlusPipeline, family: Path, work: Path) -> None:
    """Leave in `work` the VAE and the vision tower of a finished family where the stages look for them."""
    if (work / "sight_done.pt").exists():
        return
    there = QwenImageEditPlusPipeline.from_pretrained(family)
    pipeline.text_encoder.model.visual.load_state_dict(there.text_encoder.model.visual.state_dict())
    _keep_vae(there, work / "vae_done.pt")
    save_checkpoint(work / "sight_done.pt", pipeline.text_encoder.state_dict())


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
            tell(work, stage, settings.steps, _vae_figures(pipeline, 4 * recipe.cases), course)
            _keep_vae(pipeline, done)
        _restore_vae(pipeline, done)


def _vae_figures(pipeline: QwenImageEditPlusPipeline, cases: int) -> dict[str, float]:
    """PSNR in dB of what the engine makes of held-out pictures, with the weights rounded as files hold them."""
    with TemporaryDirectory() as folder:
        save(pipeline, Path(folder))
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
        tell(work, "sight", recipe.sight.steps, figures, course)
        save_checkpoint(path, text_encoder.state_dict())
    text_encoder.load_state_dict(_needed(path))


def _flow(
    pipeline: QwenImageEditPlusPipeline,
    lessons: Sequence[Lesson],
    work: Path,
    recipe: Recipe,
    course: Course,
    yielding: bool,
) -> None:
    """Transformer and language model as the flow stage leaves them, as files hold them."""
    folder = work / "flowed"
    # Trainings that are older than the path stage are finished without this folder.
    if not (finished(work, "flow", recipe.flow.steps) and folder.is_dir()):
        course.begin("flow", recipe.flow.steps)
        train_flow(
            pipeline.transformer,
            pipeline.text_encoder,
            lessons,
            recipe.flow,
            work / "flow.pt",
            course,
            yielding=yielding,
        )
        save(pipeline, folder)
        tell(work, "flow", recipe.flow.steps, _family_figures(folder, "flow", lessons, work, recipe.cases), course)
    flowed = QwenImageEditPlusPipeline.from_pretrained(folder)
    pipeline.transformer.load_state_dict(flowed.transformer.state_dict())
    pipeline.text_encoder.load_state_dict(flowed.text_encoder.state_dict())


def _path(
    pipeline: QwenImageEditPlusPipeline,
    lessons: Sequence[Lesson],
    work: Path,
    recipe: Recipe,
    course: Course,
    yielding: bool,
) -> None:
    """The transformer's last stage, and with it the family."""
    course.begin("path", recipe.path.steps)
    train_path(
        pipeline.transformer,
        pipeline.text_encoder,
        lessons,
        load_schedule(work / "flowed" / "scheduler"),
        recipe.path,
        recipe.flow,
        work / "path.pt",
        course,
        yielding=yielding,
    )
    save(pipeline, work / "family")
    tell(work, "path", recipe.path.steps, _family_figures(work / "family", "path", lessons, work, recipe.cases), course)


def examples(
    pipeline: QwenImageEditPlusPipeline,
    name: str,
    work: Path,
    recipe: Recipe,
    course: Course,
    compiles: bool = False,
) -> Lesson:
    """One of drawing.SETS as `recipe` shows it.

    Shards are drawn where `work` does not hold them for this world and these encoders. `compiles`: as for `Encoder`.
    """
    count, draws = recipe.shards[name]
    shards, encoders = [], encoders_digest(pipeline)
    for number in range(recipe.seed, recipe.seed + count):
        path = work / f"{name}_{number}_{draws}_{VERSION}_{encoders}.pt"
        if not path.exists():
            course.begin(path.stem, draws)
        draw = partial(draw_rendered, name, number)
        shards.append(load_or_make(path, pipeline, draw, draws, course, compiles))
        course.report(f"{name}: shard {len(shards)} of {count}, {len(shards[-1])} examples")
    return Lesson.of(join(shards), pipeline.tokenizer, recipe.times)


def _family_figures(family: Path, stage: str, lessons: Sequence[Lesson], work: Path, cases: int) -> dict[str, float]:
    """The share of held-out edits of each kind in `lessons` that the rules call right; pictures under `work`/scores."""
    met = {kind for lesson in lessons for kind in lesson.kinds}
    editor, figures = load_editor(family), {}
    for kind in (kind for kind in KINDS if kind in met):
        edits = [held_out(kind, number) for number in range(cases)]
        results = [apply(editor, edit, 0, _JUDGED_WITH) for edit in edits]
        rows = [(edit, result, is_right(edit, result)) for edit, result in zip(edits, results, strict=True)]
        draw_grid(work / "scores" / stage / f"{kind.replace(' ', '_')}.png", rows)
        figures[kind] = sum(right for *_, right in rows) / cases
    return figures


def _needed(path: Path) -> dict[str, Any]:
    state = load_checkpoint(path)
    if state is None:
        raise FileNotFoundError(f"{path} is missing: run the training first")
    return state
