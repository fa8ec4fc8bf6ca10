"""`injection_sweep`: what a person's photos do to a prompt at every strength, beside controls that should do nothing.

Photos and prompt are read once; all of a person's pictures are denoised together. Everything of a person is stored
before the next one's turn, and whoever takes the job over goes on after the last person who is done.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from darkroom.artifacts import Artifact
from darkroom.errors import InvalidInput
from darkroom.jobs import InjectionSweep
from darkroom.media import encode_image, labelled_grid
from darkroom.models import heads
from darkroom.models.heads import Head
from darkroom.models.likeness import Rulers
from darkroom.models.slots import MARK, placeholder
from darkroom.models.vision import VisionExtractor
from darkroom.technique.injection import own_alpha, random_residual
from darkroom.workers.injection.cells import BASE, CAPTION, OWN, RANDOM, WRONG, Cell, Plan, base_cells, cells_of, render
from darkroom.workers.injection.measures import Row, best_alpha, measured, plots, summed_up, unheld
from darkroom.workers.injection.people import NAMELESS, Subject, features, from_dataset, named
from darkroom.workers.injection.prompting import Base, read_base, read_caption, read_negative
from darkroom.workers.pictures.wording import warn_of_unread
from darkroom.workers.recipe import Desk, Event, Progress, Recipe, Streamed, Work


@dataclass(frozen=True)
class Gathered:
    """What the job brought. others: photos of somebody else, for the control, where the job named them itself."""

    plan: Plan
    subjects: Sequence[Subject]
    others: tuple[Image.Image, ...]
    head: Head


# -- before the torch thread ----------------------------------------------------------------------


def prepare(job: InjectionSweep, desk: Desk) -> Gathered:
    """Decode and fit the photos, read the head, and count the cells."""
    plan = planned(job, desk)
    head = read_head(job, desk)
    if job.dataset is not None:
        subjects = from_dataset(job, desk)
    else:
        subjects = [Subject(NAMELESS, named("photos", len(job.photos or []), job, desk), job.caption)]
    others = named("other_photos", len(job.other_photos), job, desk) if job.controls else ()
    if job.other_photos and not job.controls:
        desk.warn("other_photos have no effect without controls")
    job.check_cells(len(plan.alphas) * len(plan.gen_seeds) * len(subjects), desk.limits.max_cells)
    if job.controls and len(subjects) == 1 and not others:
        desk.warn("controls: no other person is at hand for the wrong identity; give other_photos, or a dataset of two")
    if plan.guidance <= 1 and job.negative_prompt is not None and job.negative_prompt.strip():
        desk.warn("negative_prompt has no effect at guidance 1, which runs without it")
    return Gathered(plan, subjects, others, head)


def planned(job: InjectionSweep, desk: Desk) -> Plan:
    """The profile's sweep with the job's explicit fields put in place."""
    own = desk.shelf.spec("image").sweep
    given = {name: getattr(job, name) for name in vars(own)}
    chosen = {**vars(own), **{name: value for name, value in given.items() if value is not None}}
    return Plan(**{**chosen, "alphas": tuple(chosen["alphas"]), "gen_seeds": tuple(chosen["gen_seeds"])})


def read_head(job: InjectionSweep, desk: Desk) -> Head:
    """The head that the job names, or the profile's own. Raises InvalidInput where there is none."""
    if "head" in desk.files:
        return heads.from_bytes(desk.files["head"], "head")
    own = desk.shelf.spec("image").head
    if own is None or not own.is_file():
        raise InvalidInput(
            "head: this worker's model has no head of its own; train one with injection_train and give its key",
            field="head",
        )
    return heads.from_bytes(own.read_bytes(), "head")


# -- on the torch thread --------------------------------------------------------------------------


def run(job: InjectionSweep, desk: Desk) -> Work:
    """Look at everybody once, read the prompt once, then make and judge each person's pictures."""
    gathered: Gathered = desk.prepared
    plan = gathered.plan
    with desk.clock.span("load"):
        eyes = desk.shelf.vision()
    residuals = yield from looked_at(job, gathered, eyes, desk)
    editor = desk.editor("image")
    with desk.clock.span("load"):
        rulers, perceptual = desk.shelf.rulers(), desk.shelf.perceptual()
    with desk.clock.span("encode"):
        gathered.head.fits(eyes.hidden_size, eyes.levels + 1, editor.text_encoder.config.text_config.hidden_size)
        base = read_base(editor, plan.base_prompt, gathered.head.module.config.slots)
        negative = read_negative(editor, plan.negative_prompt, plan.guidance)
        # Everybody's, before the first picture is made: one that is too long shall cost nothing.
        ceilings = {
            subject.name: read_caption(editor, base, subject.caption, subject.name)[0]
            for subject in gathered.subjects
            if subject.caption is not None
        }
    texts = [plan.base_prompt.replace(MARK, " "), *(subject.caption for subject in gathered.subjects)]
    warn_of_unread(editor, desk, texts, plan.negative_prompt)
    taught = gathered.head.about.get("base_prompt")
    if isinstance(taught, str) and not base.begins_as(taught):
        desk.warn(
            f"the head was trained on {taught!r}; where base_prompt begins otherwise, the slots read otherwise, too"
        )
    yield Progress("encode", 1, 1)
    # What controls are held against; without them and where nobody asked for α = 0 it would be work for nothing.
    plain = base_cells(plan, base) if job.controls or 0.0 in plan.alphas else []
    bases = yield from render(plain, negative, plan, editor, desk, "base")
    maker = made_by(gathered, desk)
    done = earlier_summaries(maker, desk)
    for number, subject in enumerate(gathered.subjects):
        if subject.name in done:
            continue
        own = {OWN: residuals[subject.name], **controls(job, gathered, residuals, number)}
        cells = cells_of(plan, base, own, ceilings.get(subject.name))
        stage = f"{subject.name} ({number + 1} of {len(gathered.subjects)})"
        made = yield from render(cells, negative, plan, editor, desk, stage)
        cells, pictures = [*plain, *cells], [*bases, *made]
        with desk.clock.span("judge"):
            rows = judged(cells, pictures, subject, base, rulers)
            summary = summed_up(rows, pictures, perceptual)
        about = described(subject, base, residuals[subject.name], gathered, rulers)
        done[subject.name] = {"summary": summary, **about}
        meta = {"cells": rows, "summary": summary, **about}
        yield from files_of(subject, plan, cells, pictures, meta, done, maker)
    if (reason := unheld(person["summary"] for person in done.values())) is not None:
        desk.warn(f"best_alpha goes by similarity alone: {reason}")
    cosine = sum(person["cosine"] for person in done.values()) / len(done)
    yield Streamed(lambda: Artifact("curves.png", "image/png", plots([p["summary"] for p in done.values()], cosine)))
    return {
        "seed": plan.gen_seeds[0],
        "prompt": base.text,
        "model": desk.shelf.identity("image"),
        "parameters": plan.record(),
        "measured_by": {"likeness": rulers.name, "diversity": perceptual.name},
        "people": {name: {key: person[key] for key in ("summary", "best_alpha")} for name, person in done.items()},
    }


def looked_at(
    job: InjectionSweep, gathered: Gathered, eyes: VisionExtractor, desk: Desk
) -> Generator[Event, None, dict[str, Tensor]]:
    """The residual [slots, H] of each person, and of somebody else under the name ""."""
    module = gathered.head.module
    gathered.head.fits(eyes.hidden_size, eyes.levels + 1, module.config.text_width)
    people = {subject.name: subject.photos for subject in gathered.subjects}
    people |= {"": gathered.others} if gathered.others else {}
    residuals = {}
    for number, (name, photos) in enumerate(people.items()):
        yield Progress("look", number, len(people))
        with desk.clock.span("encode"), torch.no_grad():
            seen = features(eyes, photos, job)
            residuals[name] = module.to(seen.device)(seen)
    return residuals


def controls(
    job: InjectionSweep, gathered: Gathered, residuals: Mapping[str, Tensor], number: int
) -> dict[str, Tensor]:
    """A random residual, and that of another person: the job's, or the dataset's next."""
    if not job.controls:
        return {}
    config = gathered.head.module.config
    found = {RANDOM: random_residual(config.slots, config.text_width, job.seed)}
    names = [subject.name for subject in gathered.subjects]
    if "" in residuals:
        found = {WRONG: residuals[""], **found}
    elif len(names) > 1:
        found = {WRONG: residuals[names[(number + 1) % len(names)]], **found}
    return found


def judged(
    cells: Sequence[Cell], pictures: Sequence[Image.Image], subject: Subject, base: Base, rulers: Rulers
) -> list[Row]:
    """Each cell's figures; adherence is to the prompt around the slots."""
    person, prompt = rulers.person(subject.photos), base.prompt.text(placeholder(1))
    return [
        {**measured(cell, picture, rulers, person, prompt), "file": file_of(subject, cell)}
        for cell, picture in zip(cells, pictures, strict=True)
    ]


def described(subject: Subject, base: Base, residual: Tensor, gathered: Gathered, rulers: Rulers) -> dict[str, Any]:
    """What else is known of a person's sweep: how the residual stands to the prompt, and what it was made by."""
    slots = base.slots
    cosine = torch.nn.functional.cosine_similarity(base.gain * slots, base.gain * residual.to(slots), dim=-1)
    return {
        "identity": subject.name,
        "photos": len(subject.photos),
        "caption": subject.caption,
        **gathered.plan.record(),
        "prompt": base.text,
        "slot_places": base.places,
        "cosine": float(cosine.mean()),
        "own_alpha": own_alpha(residual.to(slots), slots, base.gain),
        "head": {**vars(gathered.head.module.config), **gathered.head.about},
        "measured_by": rulers.name,
    }


# -- files ----------------------------------------------------------------------------------------


def files_of(
    subject: Subject,
    plan: Plan,
    cells: Sequence[Cell],
    pictures: Sequence[Image.Image],
    meta: dict[str, Any],
    done: dict[str, dict[str, Any]],
    maker: Mapping[str, Any],
) -> Work:
    """The cells, the grid, and last of all the meta file, whose record says that this person is done."""
    meta["best_alpha"] = done[subject.name]["best_alpha"] = best_alpha(meta["summary"])
    for cell, picture in zip(cells, pictures, strict=True):
        yield streamed(file_of(subject, cell), picture, {"seed": cell.seed, "alpha": cell.alpha, "kind": cell.kind})
    yield streamed(f"generations/{subject.name}_alpha_grid.png", grid(subject, plan, cells, pictures), {})
    data = json.dumps(meta, indent=2).encode()
    record = {"made_by": maker, "person": done[subject.name]}
    yield Streamed(lambda: Artifact(f"generations/{subject.name}_meta.json", "application/json", data), record)
    return {}


def streamed(name: str, picture: Image.Image, about: dict[str, Any]) -> Streamed:
    """A PNG on its way out."""

    def encode() -> Artifact:
        data, media_type = encode_image(picture, "png")
        return Artifact(name, media_type, data, {"width": picture.width, "height": picture.height, **about})

    return Streamed(encode)


def file_of(subject: Subject, cell: Cell) -> str:
    """cells/{identity}_a{α}_s{seed}.png, controls with their kind in the name."""
    kind = "" if cell.kind in (OWN, BASE) else f"_{cell.kind}"
    alpha = "" if cell.kind == CAPTION else f"_a{cell.alpha:g}"
    return f"cells/{subject.name}{kind}{alpha}_s{cell.seed}.png"


def grid(subject: Subject, plan: Plan, cells: Sequence[Cell], pictures: Sequence[Image.Image]) -> Image.Image:
    """Rows α, columns seeds: of the person, then of the controls; below, the caption's pictures and the photo."""
    found = {(cell.kind, cell.alpha, cell.seed): picture for cell, picture in zip(cells, pictures, strict=True)}
    kinds = [kind for kind in (OWN, WRONG, RANDOM) if any(cell.kind == kind for cell in cells)] or [OWN]
    rows, labels = [], []
    for alpha in dict.fromkeys((0.0, *plan.alphas)):
        if not alpha and all(cell.kind != BASE for cell in cells):
            continue
        sources = [BASE] if not alpha else kinds
        rows.append([found[kind, alpha, seed] for kind in sources for seed in plan.gen_seeds])
        labels.append(f"α={alpha:g}" if alpha else "α=0 (prompt)")
    captions = [found[CAPTION, 0.0, seed] for seed in plan.gen_seeds if (CAPTION, 0.0, seed) in found]
    if captions:
        rows.append(captions)
        labels.append("caption")
    photo = subject.photos[0]
    scale = min(plan.width / photo.width, plan.height / photo.height)
    rows.append([photo.resize((max(1, round(photo.width * scale)), max(1, round(photo.height * scale))))])
    labels.append("photo")
    columns = [f"{'' if kind == OWN else f'{kind}, '}seed {seed}" for kind in kinds for seed in plan.gen_seeds]
    columns += [""] * (max(map(len, rows)) - len(columns))
    return labelled_grid(rows, labels, columns)


def made_by(gathered: Gathered, desk: Desk) -> dict[str, Any]:
    """What a person's pictures depend on beside the request: the profile's defaults, models, and its own head."""
    return {
        "plan": gathered.plan.record(),
        "models": [desk.shelf.identity(role) for role in ("image", "vision")],
        "head": hashlib.sha256(heads.to_bytes(gathered.head)).hexdigest(),
    }


def earlier_summaries(maker: Mapping[str, Any], desk: Desk) -> dict[str, dict[str, Any]]:
    """The people whom an earlier try of this job has finished in the same way; a warning tells of them and of others.
    """
    records = [stored.record for stored in desk.earlier if "person" in stored.record]
    same = [record["person"] for record in records if record["made_by"] == maker]
    if same:
        desk.warn(f"went on after {len(same)} people whom an earlier try of this job had finished")
    if len(same) < len(records):
        desk.warn("an earlier try of this job ran with other defaults, models or head; its people are made again")
    return {str(person["identity"]): person for person in same}


RECIPE = Recipe(run, prepare=prepare, streams=True)
"""A recipe that streams: a person's pictures are stored before the next person's are made."""
