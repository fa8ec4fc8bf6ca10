"""`warmup`: load models and run each once, ahead of traffic."""

from __future__ import annotations

from PIL import Image

from darkroom.errors import InvalidInput
from darkroom.jobs import Warmup
from darkroom.models import generation
from darkroom.models.editor import Conditioning, Editor
from darkroom.technique.sampling import sample
from darkroom.workers.recipe import Desk, Progress, Recipe, Work

STEPS = 2
"""One step would leave the CFG rescaling of a second, lower sigma unseen by kernels chosen per shape."""


def run(job: Warmup, desk: Desk) -> Work:
    """Load every wanted role, make one small picture with it, and report the states."""
    roles = list(dict.fromkeys(job.models or desk.preload))
    for role in roles:
        if role not in desk.shelf.profile.models:
            raise InvalidInput(f"models: profile {desk.shelf.profile.name} has no {role} model", field="models")
    for index, role in enumerate(roles):
        yield Progress("warmup", index, len(roles))
        editor = desk.editor(role, whole=False)
        with desk.clock.span("encode"):
            conditioning = words(editor) if desk.shelf.spec(role).from_text else grey_edit(editor)
        yield from desk.finished(editor)
        with desk.clock.span("denoise"):
            exercise(editor, conditioning)
    return {"status": "warm", **desk.shelf.report()}


def exercise(editor: Editor, conditioning: Conditioning) -> None:
    """One short run with CFG at the model's usual size: kernels are chosen and caches filled."""
    width, height = editor.output_size(conditioning.references, None)
    noise, sigmas = editor.noise([0], width, height), editor.sigmas(STEPS, width, height)
    for step in sample(editor.denoiser(conditioning, width, height, 4.0), noise, sigmas):
        latents = step.latents
    editor.decode(latents, width, height)


def words(editor: Editor) -> Conditioning:
    """A prompt alone."""
    return generation.condition(editor, ["warm up"], " ")


def grey_edit(editor: Editor) -> Conditioning:
    """A grey picture of the model's usual size, and a prompt."""
    side = round(editor.areas.vae**0.5)
    references = editor.reference([Image.new("RGB", (side, side), (128, 128, 128))])
    return editor.condition(["warm up"], references, negative_prompt=" ")


RECIPE = Recipe(run)
