"""`injection_train`: a head learns what a person's photos mean for a prompt; the models around it stay as they are.

The checkpoint is stored after every epoch; whoever takes the job over goes on after the last one, with the same result.
"""

from __future__ import annotations

import json
import math
from collections.abc import Generator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor

from darkroom.artifacts import Artifact
from darkroom.errors import InvalidInput
from darkroom.jobs import InjectionTrain
from darkroom.media import to_tensor
from darkroom.media.charts import Panel, line_charts
from darkroom.models import heads
from darkroom.models.editor import Editor
from darkroom.models.heads import Head
from darkroom.models.slots import MARK
from darkroom.technique.injection import HeadConfig, target_of
from darkroom.technique.latents import pack
from darkroom.workers.injection.people import Subject, captioned, features, from_dataset
from darkroom.workers.injection.prompting import Base, read_base, read_caption
from darkroom.workers.injection.training import Course, Lesson, Trainer
from darkroom.workers.pictures.wording import warn_of_unread
from darkroom.workers.recipe import Desk, Event, Progress, Recipe, Streamed, Work, need_gradients
from darkroom.workers.training.epochs import diverged, earlier_checkpoint, goes_on, too_large

CHECKPOINT = "checkpoints/head.safetensors"
BASELINE = (
    "objective zero is the published original's: it learns to inject nothing and, with matched lengths, a direction "
    "that means nothing; it is a baseline, not a head to use"
)


@dataclass(frozen=True)
class Earlier:
    """The last checkpoint of an earlier try, and how far it had come."""

    head: Head
    course: Course


def prepare(job: InjectionTrain, desk: Desk) -> list[Subject]:
    """Decode and fit every photo. Raises InvalidInput where the objective lacks something of somebody."""
    if draws(job):
        need_gradients(desk, "objective", 'choose "caption"')
    sweep = desk.shelf.spec("image").sweep
    subjects = from_dataset(job, desk, (sweep.width, sweep.height) if draws(job) else None)
    if reads(job) and job.captions == "sidecar":
        captioned(subjects)
    least = 2 if draws(job) else 1
    for subject in subjects:
        left = len(subject.photos) - job.held_out
        if left < 1 or (left < least and len(subject.photos) >= least):
            raise InvalidInput(
                f"held_out: {subject.name} has {len(subject.photos)} photos, of which {max(left, 0)} would be left to "
                f"train on; the {job.objective} objective needs {least}",
                field="held_out",
            )
        if left < least:
            raise InvalidInput(
                f"dataset: {subject.name} has one photo; the flow objective needs two of each person", field="dataset"
            )
    if job.objective == "zero":
        desk.warn(BASELINE)
    return subjects


def reads(job: InjectionTrain) -> bool:
    """Whether the objective needs captions."""
    return job.objective in ("caption", "both")


def draws(job: InjectionTrain) -> bool:
    """Whether the objective needs the photos as pictures to be made."""
    return job.objective in ("flow", "both")


def run(job: InjectionTrain, desk: Desk) -> Work:
    """Look at every photo once, then train; yields after each step, and stores a checkpoint after each epoch."""
    subjects = yield from told(job, desk)
    spec = desk.shelf.spec("image")
    seen, sight = yield from looked_at(job, subjects, desk)
    editor = desk.editor("image")
    base_prompt = job.base_prompt or spec.sweep.base_prompt
    with desk.clock.span("encode"):
        base = read_base(editor, base_prompt, job.slots)
    targets = yield from targets_of(subjects, job, base, editor, desk)
    latents = yield from latents_of(subjects, editor, desk)
    lessons = [
        Lesson(subject.name, looks, target, pictures, job.held_out)
        for subject, looks, target, pictures in zip(subjects, seen, targets, latents, strict=True)
    ]
    warn_of_unread(
        editor, desk, [base_prompt.replace(MARK, " "), *(s.caption for s in subjects if reads(job))], None
    )
    size = (spec.sweep.width, spec.sweep.height)
    config = config_of(job, sight, editor)
    earlier = resumed(job, config, desk)
    module = heads.untrained(config, job.seed) if earlier is None else earlier.head.module.requires_grad_(True)
    before = None if earlier is None else (earlier.course, earlier.head.training)
    trainer = Trainer(job, module.train(), lessons, base, editor, size, spec.sweep.steps, before)
    about = {"objective": job.objective, "base_prompt": base_prompt, "people": len(lessons), "seed": job.seed,
             "model": desk.shelf.identity("image")["id"]}  # fmt: skip
    yield from epochs(trainer, about, desk)
    report = {
        **reported(trainer, about, lessons, config),
        "captions": {subject.name: subject.caption for subject in subjects},
    }
    yield Streamed(lambda: Artifact("curves.png", "image/png", curves(trainer.course)))
    yield Streamed(lambda: Artifact("report.json", "application/json", json.dumps(report, indent=2).encode()))
    return {
        "seed": job.seed,
        "prompt": base.text,
        "model": desk.shelf.identity("image"),
        "head": {"file": CHECKPOINT, **asdict(config), "parameters": report["parameters"]},
        "loss": trainer.course.losses[-1],
        "validation_loss": trainer.course.validation[-1],
    }


def told(job: InjectionTrain, desk: Desk) -> Generator[Event, None, list[Subject]]:
    """The people, each with a caption where the objective needs one: its own, or the vision model's."""
    subjects: list[Subject] = desk.prepared
    silent = [subject for subject in subjects if subject.caption is None]
    if not reads(job) or not silent:
        return subjects
    yield Progress("describe", 0, len(silent))
    with desk.clock.span("describe"):
        said = dict(zip((s.name for s in silent), desk.shelf.describe([s.photos[0] for s in silent]), strict=True))
    if empty := [name for name, caption in said.items() if not caption]:
        raise InvalidInput(f"dataset: the vision model says nothing of {empty[0]}; give it a caption.txt",
                           field="dataset")  # fmt: skip
    desk.warn(f"the captions of {len(said)} people are the vision model's own; report.json has them")
    return [replace(subject, caption=said.get(subject.name, subject.caption)) for subject in subjects]


def looked_at(
    job: InjectionTrain, subjects: Sequence[Subject], desk: Desk
) -> Generator[Event, None, tuple[list[tuple[Tensor, ...]], tuple[int, int]]]:
    """Each photo's features, and their (width, levels). The vision model is let go here, so that the shelf can, too."""
    with desk.clock.span("load"):
        eyes = desk.shelf.vision()
    seen = []
    for number, subject in enumerate(subjects):
        yield Progress("look", number, len(subjects))
        with desk.clock.span("encode"):
            seen.append(tuple(features(eyes, [photo], job).cpu() for photo in subject.photos))
    return seen, (eyes.hidden_size, eyes.levels + 1)


def config_of(job: InjectionTrain, sight: tuple[int, int], editor: Editor) -> HeadConfig:
    """The head's form, dimensions read off the models."""
    width = editor.text_encoder.config.text_config.hidden_size
    return HeadConfig(*sight, width, job.slots, job.rank)


def targets_of(
    subjects: Sequence[Subject], job: InjectionTrain, base: Base, editor: Editor, desk: Desk
) -> Generator[Event, None, list[Tensor | None]]:
    """Everybody's caption as the slots shall be, [slots, H]; None where the objective has no use for it."""
    targets: list[Tensor | None] = []
    for number, subject in enumerate(subjects):
        target = None
        if reads(job) and subject.caption is not None:
            yield Progress("read", number, len(subjects))
            with desk.clock.span("encode"):
                target = target_of(read_caption(editor, base, subject.caption, subject.name)[1], job.slots)
        targets.append(target)
    return targets


def latents_of(
    subjects: Sequence[Subject], editor: Editor, desk: Desk
) -> Generator[Event, None, list[tuple[Tensor, ...]]]:
    """Everybody's photos as latents [1, cells, 64]; after all captions, since parts may take turns on the device."""
    latents = []
    for number, subject in enumerate(subjects):
        if subject.drawn:
            yield Progress("encode", number, len(subjects))
        with desk.clock.span("encode"):
            latents.append(tuple(pack(editor.encode(to_tensor(p)[None])).float() for p in subject.drawn))
    return latents


def epochs(trainer: Trainer, about: dict[str, Any], desk: Desk) -> Work:
    """All epochs that are left.

    Raises OutOfMemory, which names the batch, and InvalidInput for a training that diverges; both name the checkpoint
    that is kept.
    """
    stored, total = trainer.course.epoch, trainer.batches * trainer.job.epochs
    try:
        while stored < trainer.job.epochs:
            done = stored * trainer.batches
            for loss in desk.clock.timed("train", trainer.epoch()):
                if not math.isfinite(loss):
                    raise diverged(stored)
                done += 1
                yield Progress("train", done, total, {"loss": round(loss, 6), "epoch": stored + 1})
            if not trainer.is_finite:
                raise diverged(stored)
            yield checkpoint(trainer, about)
            stored = trainer.course.epoch
    except torch.OutOfMemoryError as error:
        raise too_large(trainer.job.batch_size, stored) from error
    return {}


def checkpoint(trainer: Trainer, about: dict[str, Any]) -> Streamed:
    """The head after an epoch, with what is needed to go on unless it was the last."""
    last = trainer.course.epoch >= trainer.job.epochs
    data = heads.to_bytes(trainer.head({**about, **summary(trainer.course)}, with_state=not last))
    return Streamed(
        lambda: Artifact(CHECKPOINT, "application/octet-stream", data, {"epoch": trainer.course.epoch}),
        trainer.course.record(),
    )


def resumed(job: InjectionTrain, config: HeadConfig, desk: Desk) -> Earlier | None:
    """Where an earlier try of this job has got to, or None. The request is the same: the store has checked that."""
    found = earlier_checkpoint(desk, CHECKPOINT, heads.from_bytes)
    if found is None:
        return None
    head, course = found[0], Course(**found[1])
    same_model = (
        head.module.config == config
        and head.about.get("model") == desk.shelf.identity("image")["id"]
        and (course.epoch >= job.epochs or bool(head.training))
    )
    return Earlier(head, course) if goes_on(desk, course.epoch, same_model) else None


def summary(course: Course) -> dict[str, Any]:
    """What a checkpoint says of its training."""
    return {"epochs": course.epoch, "loss": course.losses[-1] if course.losses else None,
            "validation_loss": course.validation[-1] if course.validation else None}  # fmt: skip


def reported(trainer: Trainer, about: dict[str, Any], lessons: Sequence[Lesson], config: HeadConfig) -> dict[str, Any]:
    """report.json: settings, people, losses."""
    parameters = sum(parameter.numel() for parameter in trainer.module.parameters())
    people = {lesson.name: {"train": len(lesson.views), "held_out": lesson.held_out} for lesson in lessons}
    return {**about, "people": people, "head": asdict(config), "parameters": parameters,
            "settings": trainer.job.model_dump(mode="json", exclude={"dataset", "idempotency_key"}),
            "losses": trainer.course.losses, "validation": trainer.course.validation}  # fmt: skip


def curves(course: Course) -> bytes:
    """PNG: the loss of every step, and that of held-out photos after every epoch."""
    steps = {"training": (list(range(1, len(course.losses) + 1)), course.losses)}
    panels = [Panel("loss per step", "optimizer step", steps)]
    held = [(epoch, value) for epoch, value in enumerate(course.validation, 1) if value is not None]
    if held:
        panels.append(Panel("held-out photos", "epoch", {"validation": ([e for e, _ in held], [v for _, v in held])}))
    return line_charts(panels)


RECIPE = Recipe(run, prepare=prepare, streams=True)
"""A recipe that streams: a checkpoint is stored after each epoch."""
