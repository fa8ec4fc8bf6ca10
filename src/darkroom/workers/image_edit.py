"""`image_edit`: one to three pictures changed by one or several instructions."""

from __future__ import annotations

import secrets
from collections.abc import Generator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace

from PIL.Image import Image
from torch import Tensor

from darkroom.artifacts import Artifact
from darkroom.errors import BadJob, InputTooLarge
from darkroom.jobs import ImageEdit
from darkroom.media import decode_image, encode_image, to_uint8
from darkroom.models import lora
from darkroom.models.acceleration import Accelerated
from darkroom.models.editor import Conditioning, Editor, References
from darkroom.models.presets import DEFAULT, Preset
from darkroom.models.sight import PromptTooLong, plain
from darkroom.technique.sampling import sample
from darkroom.workers.recipe import Desk, Event, Progress, Recipe, Unencoded, Work


@dataclass(frozen=True)
class Picture:
    """One picture to make: its prompt's position and text, its noise's seed."""

    prompt_index: int
    prompt: str
    seed: int


@dataclass(frozen=True)
class Inputs:
    """What the caller brought, ready for the model: RGB pictures, and LoRAs to put on."""

    pictures: Sequence[Image]
    loras: Sequence[lora.Lora]


Embeddings = dict[int, Tensor]
"""Position of a prompt -> its embeddings [L, D]."""


def prepare(job: ImageEdit, desk: Desk) -> Inputs:
    """Decode the sources and read the LoRAs: files and the network, nothing of the device."""
    preset = plan(job, desk.shelf.spec("edit").presets)
    advise(job, preset, desk)
    pictures = decoded(job, desk)
    with desk.clock.span("load"):
        return Inputs(pictures, gather_loras(job, preset, desk))


def run(job: ImageEdit, desk: Desk) -> Work:
    """Encode the sources once, then denoise, decode and hand out the pictures in batches.

    Sources are decoded and results encoded beside the torch thread, which runs only this.

    A prompt that cannot run is reported under `failed` beside the good ones; when none can, its error is the job's.
    """
    spec = desk.shelf.spec("edit")
    preset = plan(job, spec.presets)
    seed = job.seed if job.seed >= 0 else secrets.randbelow(2**31)
    inputs: Inputs = desk.prepared
    editor = desk.editor("edit")
    known = editor.encodings.counts
    yield Progress("encode", 0, 1)
    with desk.clock.span("encode"):
        references = editor.reference(inputs.pictures)
        negative = read_negative(job, preset, editor, references)
        embeddings, failed = read_prompts(job, editor, references)
    unknown = [word for prompt in job.prompts for word in editor.unknown_words(prompt)]
    if unknown:
        words = ", ".join(dict.fromkeys(unknown[:8]))
        desk.warn(f"the pocket model knows only its small world (docs/pocket.md) and was not taught: {words}")
    if any(plain(editor.processor.tokenizer, text) != text for text in [*job.prompts, job.negative_prompt]):
        desk.warn("control tokens such as <|im_end|> in a prompt are read as blanks")
    yield Progress("encode", 1, 1)
    pictures = [Picture(i, job.prompts[i], seed + k) for i in embeddings for k in range(job.num_images)]
    prompts = tuple(embeddings[picture.prompt_index] for picture in pictures)
    with lora.worn(editor.transformer, inputs.loras):
        conditioning = Conditioning(prompts, negative, references)
        computed = yield from make(pictures, conditioning, job, preset, editor, desk)
    if job.acceleration != "none":
        desk.warn(accelerated_how(job.acceleration, computed, preset.steps))
    return {
        "seed": seed,
        "failed": [{"index": i, "prompt": job.prompts[i], **bad.reply()} for i, bad in sorted(failed.items())],
        "model": desk.shelf.identity("edit"),
        "parameters": {
            "num_inference_steps": preset.steps,
            "true_cfg_scale": preset.true_cfg_scale,
            "acceleration": job.acceleration,
            "computed_steps": computed,
        },
        "encodings": asdict(editor.encodings.counts.since(known)),
    }


def plan(job: ImageEdit, presets: Mapping[str, Preset]) -> Preset:
    """The job's preset with its explicit fields put in place."""
    preset = presets[job.preset or DEFAULT]
    return replace(
        preset,
        steps=preset.steps if job.num_inference_steps is None else job.num_inference_steps,
        true_cfg_scale=preset.true_cfg_scale if job.true_cfg_scale is None else job.true_cfg_scale,
    )


def advise(job: ImageEdit, preset: Preset, desk: Desk) -> None:
    """Say which explicit wishes have no effect in this combination."""
    if job.output_format == "png" and "output_quality" in job.model_fields_set:
        desk.warn("output_quality has no effect on png, which is lossless")
    if preset.true_cfg_scale <= 1 and job.negative_prompt.strip():
        desk.warn("negative_prompt has no effect at true_cfg_scale 1, which runs without guidance")


def decoded(job: ImageEdit, desk: Desk) -> list[Image]:
    """The sources as RGB pictures; what had to be changed about them is said in the reply."""
    with desk.clock.span("decode_input"):
        pictures = [decode_image(desk.files[name], name, desk.limits) for name in job.sources()]
    for picture in pictures:
        for note in picture.notes:
            desk.warn(note)
    return [picture.image for picture in pictures]


def gather_loras(job: ImageEdit, preset: Preset, desk: Desk) -> list[lora.Lora]:
    """The preset's LoRA and the job's own, read and ready to be put on."""
    loras = [] if preset.lora is None else [lora.of_preset(preset.lora)]
    for index, wanted in enumerate(job.loras):
        field = f"loras[{index}].path"
        if field in desk.files:
            loras.append(lora.read(desk.files[field], wanted.scale, field))
            continue
        own = lora.from_folder(desk.lora_dir, wanted.path, wanted.scale, field)
        most = desk.limits.max_lora_bytes
        loras.append(own or lora.from_hub(lora.hub_file(wanted.path, field), wanted.scale, field, most))
    return loras


def read_prompts(job: ImageEdit, editor: Editor, references: References) -> tuple[Embeddings, dict[int, BadJob]]:
    """Each good prompt's embeddings by position, and each bad one's fault. Raises the fault when none is good."""
    embeddings: Embeddings = {}
    failed = job.failed_prompts
    for index, prompt in enumerate(job.prompts):
        if index in failed:
            continue
        same = job.prompts.index(prompt)
        try:
            embeddings[index] = embeddings[same] if same in embeddings else editor.embed(prompt, references)
        except PromptTooLong as error:
            field = "prompt" if isinstance(job.prompt, str) else f"prompt[{index}]"
            failed[index] = InputTooLarge(f"{field} {error}", field=field)
    if not embeddings:
        raise failed[min(failed)]
    return embeddings, failed


def read_negative(job: ImageEdit, preset: Preset, editor: Editor, references: References) -> Tensor | None:
    """The negative prompt's embeddings, read once for all pictures; None where CFG is off."""
    if preset.true_cfg_scale <= 1:
        return None
    try:
        return editor.embed(job.negative_prompt, references)
    except PromptTooLong as error:
        raise InputTooLarge(f"negative_prompt {error}", field="negative_prompt") from error


def make(
    pictures: Sequence[Picture], conditioning: Conditioning, job: ImageEdit, preset: Preset, editor: Editor, desk: Desk
) -> Generator[Event, None, int]:
    """Denoise in batches of as many pictures as the profile allows, equal prompt lengths side by side.

    Returns how many of a picture's steps ran the model; acceleration extrapolates the others.
    """
    by_length = sorted(range(len(pictures)), key=lambda i: len(conditioning.prompts[i]))
    groups = [by_length[i : i + editor.max_batch] for i in range(0, len(by_length), editor.max_batch)]
    width, height = editor.output_size(conditioning.references, job.dimensions)
    sigmas = editor.sigmas(preset.steps, width, height, preset.shift)
    computed = preset.steps
    for number, group in enumerate(groups):
        batch = replace(conditioning, prompts=tuple(conditioning.prompts[i] for i in group))
        latents = editor.noise([pictures[i].seed for i in group], width, height)
        denoise = editor.denoiser(batch, width, height, preset.true_cfg_scale)
        accelerated = None if job.acceleration == "none" else Accelerated(denoise, job.acceleration)
        steps = sample(accelerated.denoise if accelerated else denoise, latents, sigmas)
        for done, step in enumerate(desk.clock.timed("denoise", steps), 1):
            latents = step.latents
            yield Progress("denoise", number * preset.steps + done, len(groups) * preset.steps)
        computed = accelerated.computed if accelerated else preset.steps
        with desk.clock.span("decode"):
            pixels = editor.decode(latents, width, height)
        for index, image in zip(group, pixels, strict=True):
            yield finished(index, pictures[index], image, job)
    return computed


def accelerated_how(acceleration: str, computed: int, steps: int) -> str:
    """What acceleration did to this job, for the reply."""
    if computed == steps:
        return f"acceleration {acceleration} had no effect: so few steps ({steps}) are all computed"
    return f"acceleration {acceleration} is lossy: {computed} of {steps} steps were computed, the others extrapolated"


def finished(index: int, picture: Picture, pixels: Tensor, job: ImageEdit) -> Unencoded:
    """One picture, to be made a file of; pixels [3, H, W] in -1…1."""
    image = to_uint8(pixels)
    about = {
        "width": image.width,
        "height": image.height,
        "seed": picture.seed,
        "prompt": picture.prompt,
        "prompt_index": picture.prompt_index,
    }

    def encode() -> Artifact:
        data, media_type = encode_image(image, job.output_format, job.output_quality)
        return Artifact(f"image_{index:04d}.{job.output_format}", media_type, data, about)

    return Unencoded(encode)


RECIPE = Recipe(run, prepare=prepare)
