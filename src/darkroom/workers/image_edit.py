"""`image_edit`: one to three pictures changed by one or several instructions."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial

from PIL.Image import Image

from darkroom.jobs import ImageEdit
from darkroom.media import decode_image
from darkroom.models import lora
from darkroom.models.acceleration import Accelerated
from darkroom.models.editor import Conditioning
from darkroom.models.presets import DEFAULT
from darkroom.technique.sampling import Denoise
from darkroom.workers.pictures.asked import (
    advise,
    gather_loras,
    plan,
    read_negative,
    read_prompts,
    told,
    warn_of_words,
)
from darkroom.workers.pictures.making import Picture, make
from darkroom.workers.recipe import Desk, Progress, Recipe, Work


@dataclass(frozen=True)
class Inputs:
    """What the caller brought, ready for the model: RGB pictures, and LoRAs to put on."""

    pictures: Sequence[Image]
    loras: Sequence[lora.Lora]


def prepare(job: ImageEdit, desk: Desk) -> Inputs:
    """Decode the sources and read the LoRAs: files and the network, nothing of the device."""
    preset = plan(job, desk.shelf.spec("edit").presets, job.preset or DEFAULT)
    advise(job, preset, desk)
    pictures = decoded(job, desk)
    with desk.clock.span("load"):
        return Inputs(pictures, gather_loras(job, preset, desk))


def run(job: ImageEdit, desk: Desk) -> Work:
    """Encode the sources once, then denoise, decode and hand out the pictures in batches.

    Sources are decoded and results encoded beside the torch thread, which runs only this.

    A prompt that cannot run is reported under `failed` beside the good ones; when none can, its error is the job's.
    """
    preset = plan(job, desk.shelf.spec("edit").presets, job.preset or DEFAULT)
    seed = job.seed if job.seed >= 0 else secrets.randbelow(2**31)
    inputs: Inputs = desk.prepared
    editor = desk.editor("edit", whole=False)
    known = editor.encodings.counts
    yield Progress("encode", 0, 1)
    with desk.clock.span("encode"):
        references = editor.reference(inputs.pictures)
        embed = partial(editor.embed, references=references)
        negative = read_negative(job, preset, embed)
        embeddings, failed = read_prompts(job, embed)
    warn_of_words(job, editor, desk)
    yield Progress("encode", 1, 1)
    pictures = [Picture(i, job.prompts[i], seed + k) for i in embeddings for k in range(job.num_images)]
    prompts = tuple(embeddings[picture.prompt_index] for picture in pictures)
    batches = Accelerations(job)
    yield from desk.finished(editor)
    with lora.worn(editor.transformer, inputs.loras):
        conditioning = Conditioning(prompts, negative, references)
        yield from make(pictures, conditioning, job, preset, editor, desk, batches.around)
    computed = batches.computed(preset.steps)
    if job.acceleration != "none":
        desk.warn(accelerated_how(job.acceleration, computed, preset.steps))
    return {
        "seed": seed,
        "failed": told(job, failed),
        "model": desk.shelf.identity("edit"),
        "parameters": {
            "num_inference_steps": preset.steps,
            "true_cfg_scale": preset.true_cfg_scale,
            "acceleration": job.acceleration,
            "computed_steps": computed,
        },
        "encodings": asdict(editor.encodings.counts.since(known)),
    }


def decoded(job: ImageEdit, desk: Desk) -> list[Image]:
    """The sources as RGB pictures; what had to be changed about them is said in the reply."""
    with desk.clock.span("decode_input"):
        pictures = [decode_image(desk.files[name], name, desk.limits) for name in job.sources()]
    for picture in pictures:
        for note in picture.notes:
            desk.warn(note)
    return [picture.image for picture in pictures]


class Accelerations:
    """The job's acceleration around each batch's denoiser; knows afterwards how many steps ran the model."""

    def __init__(self, job: ImageEdit) -> None:
        self._kind = job.acceleration
        self._last: Accelerated | None = None

    def around(self, denoise: Denoise) -> Denoise:
        """`denoise` itself where the job asks for none."""
        if self._kind == "none":
            return denoise
        self._last = Accelerated(denoise, self._kind)
        return self._last.denoise

    def computed(self, steps: int) -> int:
        """How many of a picture's steps ran the model; acceleration extrapolates the others."""
        return steps if self._last is None else self._last.computed


def accelerated_how(acceleration: str, computed: int, steps: int) -> str:
    """What acceleration did to this job, for the reply."""
    if computed == steps:
        return f"acceleration {acceleration} had no effect: so few steps ({steps}) are all computed"
    return f"acceleration {acceleration} is lossy: {computed} of {steps} steps were computed, the others extrapolated"


RECIPE = Recipe(run, prepare=prepare)
