"""`bridge_train`: a bridge learns from edit triples; its checkpoint is stored after every epoch.

Whoever takes the job over goes on after the last checkpoint, with the same result.
"""

from __future__ import annotations

import json
import math
from collections.abc import Generator, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch

from darkroom.artifacts import Artifact
from darkroom.errors import InvalidInput
from darkroom.jobs import BridgeTrain
from darkroom.media.charts import Panel, line_charts
from darkroom.media.triples import TripleArchive
from darkroom.models import bridge as bridges
from darkroom.models.bridge import Bridge
from darkroom.models.bridge_training import Course, Options, Trainer, Triple, held_of, lesson
from darkroom.models.editor import Editor
from darkroom.models.enhanced import EnhancedEditor
from darkroom.models.sight import PromptTooLong
from darkroom.models.vision import Sight
from darkroom.technique.bridge import BridgeConfig, parameters_of
from darkroom.workers.bridging.opening import Extractor, grids, models_at_hand, open_vision, warn_of_strangers
from darkroom.workers.recipe import Desk, Event, Progress, Recipe, Streamed, Work, need_gradients
from darkroom.workers.training.epochs import diverged, earlier_checkpoint, goes_on, too_large

CHECKPOINT = "checkpoints/bridge.safetensors"


@dataclass(frozen=True)
class Inputs:
    """What the caller brought: triples, and a bridge to start from, None for a new one."""

    triples: list[Triple]
    bridge: Bridge | None


def prepare(job: BridgeTrain, desk: Desk) -> Inputs:
    """Decode every picture and read the bridge. Raises InvalidInput, which names the triple that lacks something."""
    if job.flow_epochs:
        need_gradients(desk, "flow_epochs", "set it to 0")
    archive = TripleArchive(desk.clips["dataset"], "dataset", desk.limits)
    triples = [
        Triple(files.name, prompt=files.prompt, **{role: archive.picture(n) for role, n in files.pictures.items()})
        for files in archive.triples
    ]
    if len(triples) < 2:
        raise InvalidInput(
            "dataset holds one triple; at least two are needed, one of them to validate", field="dataset"
        )
    try:
        held_of(len(triples), job.held_out)
    except ValueError as error:
        raise InvalidInput(f"held_out is {job.held_out} and dataset's {error}", field="held_out") from error
    given = desk.files.get("bridge")
    return Inputs(triples, None if given is None else bridges.from_bytes(given))


def run(job: BridgeTrain, desk: Desk) -> Work:
    """Look at every picture once, then train; yields after each batch and stores a checkpoint after each epoch."""
    inputs: Inputs = desk.prepared
    sights, extractor = yield from looked_at(job, inputs.triples, desk)
    if job.loading == "sequential":
        desk.shelf.evict("vision")
    editor = desk.editor("edit")
    bridge, course = begun(job, inputs.bridge, extractor, editor, desk)
    lessons = []
    for done, (triple, sight) in enumerate(zip(inputs.triples, sights, strict=True)):
        yield Progress("encode", done, len(sights))
        with desk.clock.span("encode"):
            lessons.append(lesson(editor, triple, sight))
    options = Options(**{name: getattr(job, name) for name in asdict(Options()) if hasattr(job, name)})
    trainer = Trainer(EnhancedEditor(editor, bridge), lessons, options, course, bridge.training)
    about = {
        "model": desk.shelf.identity("edit")["id"],
        "extractor": desk.shelf.identity("vision")["id"],
        "triples": len(trainer.lessons),
        "seed": job.seed,
        bridges.MADE_FOR: models_at_hand(desk),
    }
    yield from epochs(trainer, about, desk)
    report = reported(job, trainer, about, bridge.config)
    yield Streamed(lambda: Artifact("curves.png", "image/png", curves(trainer.course)))
    yield Streamed(lambda: Artifact("report.json", "application/json", json.dumps(report, indent=2).encode()))
    return {
        "seed": job.seed,
        "model": desk.shelf.identity("edit"),
        "bridge": {"file": CHECKPOINT, **asdict(bridge.config), "parameters": report["parameters"]},
        "validation": {"before": trainer.course.validation[0], "after": trainer.course.validation[-1]},
    }


def looked_at(
    job: BridgeTrain, triples: Sequence[Triple], desk: Desk
) -> Generator[Event, None, tuple[list[Sight], Extractor]]:
    """What is seen of each source, and by what. The vision model is let go here, so that the shelf can, too."""
    with desk.clock.span("load"):
        eyes = open_vision(job, desk)
        wanted = grids([triple.seen for triple in triples], desk)
    sights = []
    for done, (triple, grid) in enumerate(zip(triples, wanted, strict=True)):
        yield Progress("look", done, len(wanted))
        with desk.clock.span("encode"):
            sights.append(eyes.look(triple.seen, grid=grid, prompt=job.extractor_prompt))
    return sights, Extractor(eyes.hidden_size, eyes.levels, job.extractor_prompt is not None)


def begun(
    job: BridgeTrain, given: Bridge | None, extractor: Extractor, editor: Editor, desk: Desk
) -> tuple[Bridge, Course | None]:
    """The bridge to train: an earlier try's last checkpoint, the one that the job names, or a new one."""
    width = int(editor.text_encoder.config.text_config.hidden_size)
    if given is None:
        form = BridgeConfig(
            width, extractor.hidden_size, extractor.levels, job.rank, job.fusion, job.use_residual, job.shared_up
        )
        given = bridges.untrained(form, job.seed)
    given.fits(width, extractor.hidden_size, extractor.levels)
    warn_of_strangers(given, desk)
    return resumed(job, given, desk) or (Bridge(given.module), None)


def resumed(job: BridgeTrain, given: Bridge, desk: Desk) -> tuple[Bridge, Course] | None:
    """Where an earlier try of this job has got to, or None. The request is the same: the store has checked that."""
    found = earlier_checkpoint(desk, CHECKPOINT, bridges.from_bytes)
    if found is None:
        return None
    bridge, course = found[0], Course(**found[1])
    unfinished = course.epoch < job.distill_epochs + job.flow_epochs
    same_model = bridge.config == given.config and (not unfinished or bool(bridge.training))
    return (bridge, course) if goes_on(desk, course.epoch, same_model) else None


def epochs(trainer: Trainer, about: dict[str, Any], desk: Desk) -> Work:
    """All epochs that are left. Raises OutOfMemory and InvalidInput, which name what to change."""
    stored = trainer.course.epoch
    try:
        while not trainer.finished:
            done, phase = stored * trainer.batches, trainer.phase
            total = trainer.options.epochs * trainer.batches
            for loss in desk.clock.timed("train", trainer.epoch()):
                if not math.isfinite(loss):
                    raise diverged(stored)
                done += 1
                yield Progress("train", done, total, {"loss": round(loss, 6), "phase": phase})
            if not trainer.is_finite:
                raise diverged(stored)
            yield checkpoint(trainer, about)
            stored = trainer.course.epoch
    except torch.OutOfMemoryError as error:
        raise too_large(trainer.options.batch_size, stored) from error
    except PromptTooLong as error:
        raise InvalidInput(f"dataset: a prompt {error}", field="dataset") from error
    return {}


def checkpoint(trainer: Trainer, about: dict[str, Any]) -> Streamed:
    """The bridge after an epoch, with what is needed to go on unless it was the last."""
    data = bridges.to_bytes(trainer.checkpoint(about))
    file = Artifact(CHECKPOINT, "application/octet-stream", data, {"epoch": trainer.course.epoch})
    return Streamed(lambda: file, trainer.course.record())


def reported(job: BridgeTrain, trainer: Trainer, about: dict[str, Any], config: BridgeConfig) -> dict[str, Any]:
    """report.json: settings, form, losses."""
    return {
        **about,
        "held_out": len(trainer.held_out),
        "bridge": asdict(config),
        "parameters": parameters_of(config),
        "settings": job.model_dump(mode="json", exclude={"dataset", "idempotency_key"}),
        "losses": trainer.course.record()["losses"],
        "validation": trainer.course.validation,
    }


def curves(course: Course) -> bytes:
    """PNG: per phase the loss of every step, and that of held-out triples before and after every epoch."""
    return line_charts(list(panels(course)))


def panels(course: Course) -> Iterator[Panel]:
    """Two for each phase that was run."""
    for phase in dict.fromkeys(name for name, _ in course.losses):
        steps = [(number, loss) for number, (name, loss) in enumerate(course.losses, 1) if name == phase]
        yield Panel(f"{phase}: loss per step", "optimizer step", {phase: tuple(zip(*steps, strict=True))})  # type: ignore[dict-item]
        held = [(epoch, losses[phase]) for epoch, losses in enumerate(course.validation) if phase in losses]
        yield Panel(f"{phase}: held-out triples", "epoch", {phase: tuple(zip(*held, strict=True))})  # type: ignore[dict-item]


RECIPE = Recipe(run, prepare=prepare, streams=True)
