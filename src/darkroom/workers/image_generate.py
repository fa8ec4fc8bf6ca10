"""`image_generate`: pictures from one or several prompts."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial

from darkroom.jobs import ImageGenerate
from darkroom.models import generation, lora
from darkroom.models.editor import Conditioning
from darkroom.models.presets import DEFAULT
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


def prepare(job: ImageGenerate, desk: Desk) -> Sequence[lora.Lora]:
    """Read the LoRAs: files and the network, nothing of the device."""
    preset = plan(job, desk.shelf.spec("image").presets, DEFAULT)
    advise(job, preset, desk)
    with desk.clock.span("load"):
        return gather_loras(job, preset, desk, "image")


def run(job: ImageGenerate, desk: Desk) -> Work:
    """Read every prompt once, then denoise, decode and hand out the pictures in batches.

    A prompt that cannot run is reported under `failed` beside the good ones; when none can, its error is the job's.
    """
    preset = plan(job, desk.shelf.spec("image").presets, DEFAULT)
    seed = job.seed if job.seed >= 0 else secrets.randbelow(2**31)
    editor = desk.editor("image", whole=False)
    known = editor.encodings.counts
    yield Progress("encode", 0, 1)
    with desk.clock.span("encode"):
        embed = partial(generation.embed, editor)
        negative = read_negative(job, preset, embed)
        embeddings, failed = read_prompts(job, embed)
    warn_of_words(job, editor, desk)
    yield Progress("encode", 1, 1)
    yield from desk.finished(editor)
    pictures = [Picture(i, job.prompts[i], seed + k) for i in embeddings for k in range(job.num_images)]
    prompts = tuple(embeddings[picture.prompt_index] for picture in pictures)
    conditioning = Conditioning(prompts, negative, generation.no_references(editor))
    with lora.worn(editor.transformer, desk.prepared):
        yield from make(pictures, conditioning, job, preset, editor, desk)
    return {
        "seed": seed,
        "failed": told(job, failed),
        "model": desk.shelf.identity("image"),
        "parameters": {"num_inference_steps": preset.steps, "true_cfg_scale": preset.true_cfg_scale},
        "encodings": asdict(editor.encodings.counts.since(known)),
    }


RECIPE = Recipe(run, prepare=prepare)
