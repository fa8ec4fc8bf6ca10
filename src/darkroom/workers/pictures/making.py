"""Pictures from conditioning: denoised in batches, decoded, made files of."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, replace

from torch import Tensor

from darkroom.artifacts import Artifact
from darkroom.jobs import PictureJob
from darkroom.media import encode_image, to_uint8
from darkroom.models.editor import Conditioning, Editor
from darkroom.models.presets import Preset
from darkroom.technique.sampling import Denoise, sample
from darkroom.workers.recipe import Desk, Event, Progress, Unencoded


@dataclass(frozen=True)
class Picture:
    """One picture to make: its prompt's position and text, its noise's seed."""

    prompt_index: int
    prompt: str
    seed: int


Wrap = Callable[[Denoise], Denoise]
"""What is put around the denoiser of each batch."""


def make(
    pictures: Sequence[Picture],
    conditioning: Conditioning,
    job: PictureJob,
    preset: Preset,
    editor: Editor,
    desk: Desk,
    wrap: Wrap = lambda denoise: denoise,
) -> Generator[Event, None, None]:
    """Denoise in batches of as many pictures as the profile allows, equal prompt lengths side by side."""
    by_length = sorted(range(len(pictures)), key=lambda i: len(conditioning.prompts[i]))
    groups = [by_length[i : i + editor.max_batch] for i in range(0, len(by_length), editor.max_batch)]
    width, height = editor.output_size(conditioning.references, job.dimensions)
    sigmas = editor.sigmas(preset.steps, width, height, preset.shift)
    for number, group in enumerate(groups):
        batch = replace(conditioning, prompts=tuple(conditioning.prompts[i] for i in group))
        latents = editor.noise([pictures[i].seed for i in group], width, height)
        steps = sample(wrap(editor.denoiser(batch, width, height, preset.true_cfg_scale)), latents, sigmas)
        for done, step in enumerate(desk.clock.timed("denoise", steps), 1):
            latents = step.latents
            yield Progress("denoise", number * preset.steps + done, len(groups) * preset.steps)
        with desk.clock.span("decode"):
            pixels = editor.decode(latents, width, height)
        for index, image in zip(group, pixels, strict=True):
            yield finished(index, pictures[index], image, job)


def finished(index: int, picture: Picture, pixels: Tensor, job: PictureJob) -> Unencoded:
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
