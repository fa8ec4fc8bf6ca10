"""The engine's result is diffusers' result: bit for bit where `exact` is set, else and in a batch within 1/255."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from darkroom.bench import yardstick
from darkroom.media import to_uint8
from darkroom.models import lora
from darkroom.models.editor import Editor
from darkroom.models.shelf import Shelf
from darkroom.models.specs import Profile
from darkroom.technique.sampling import sample
from tests.fakes.loras import random_lora

STEPS = 2
PROMPT = "make the circle blue"


@pytest.fixture(scope="module")
def exact(profile: Profile) -> Editor:
    return Shelf(replace(profile, exact=True)).editor("edit")


@pytest.fixture(scope="module")
def pipeline(exact: Editor) -> Any:
    return yardstick.pipeline_over(exact)


def pictures(photo: Image.Image, shape: str, count: int) -> list[Image.Image]:
    """`count` different pictures; the last one, which the output follows, is of the wanted shape."""
    box = {"square": (0, 0, 120, 120), "landscape": (0, 10, 160, 110), "portrait": (10, 0, 110, 160)}[shape]
    last = photo.crop(box)
    others = [photo.rotate(90 * i).crop((0, 0, 150, 100)) for i in range(1, count)]
    return [*others, last]


def render(
    editor: Editor, images: list[Image.Image], prompts: list[str], seeds: list[int], cfg: float, steps: int = STEPS
) -> list[np.ndarray]:
    references = editor.reference(images)
    conditioning = editor.condition(prompts, references, " " if cfg > 1 else None)
    size = editor.output_size(references, None)
    denoise = editor.denoiser(conditioning, *size, cfg)
    latents = list(sample(denoise, editor.noise(seeds, *size), editor.sigmas(steps, *size)))[-1].latents
    return [np.asarray(to_uint8(pixels)) for pixels in editor.decode(latents, *size)]


@pytest.mark.parametrize("cfg", [1.0, 4.0])
@pytest.mark.parametrize(("shape", "count"), [("square", 1), ("landscape", 2), ("portrait", 3), ("portrait", 1)])
def test_one_edit_is_diffusers_edit_bit_for_bit(
    exact: Editor, editor: Editor, pipeline: Any, photo: Image.Image, shape: str, count: int, cfg: float
) -> None:
    images = pictures(photo, shape, count)
    ours = render(exact, images, [PROMPT], [7], cfg)[0]
    theirs = yardstick.edit(pipeline, images, PROMPT, seed=7, steps=STEPS, true_cfg_scale=cfg, size=ours.shape[1::-1])
    assert ours.std() > 0
    np.testing.assert_array_equal(ours, theirs)
    faster = render(editor, images, [PROMPT], [7], cfg)[0]
    assert np.abs(faster.astype(int) - theirs.astype(int)).max() <= 1


@pytest.mark.parametrize("cfg", [1.0, 4.0])
def test_one_edit_with_a_lora_is_diffusers_edit_with_it(
    exact: Editor, editor: Editor, pipeline: Any, photo: Image.Image, cfg: float
) -> None:
    images, weights = pictures(photo, "landscape", 1), random_lora(exact.transformer, strength=0.2)
    plain = render(exact, images, [PROMPT], [7], cfg)[0]
    with lora.worn(exact.transformer, [lora.Lora(weights, 0.8, "loras[0].path")]):
        ours = render(exact, images, [PROMPT], [7], cfg)[0]
    with lora.worn(editor.transformer, [lora.Lora(weights, 0.8, "loras[0].path")]):
        faster = render(editor, images, [PROMPT], [7], cfg)[0]
    pipeline.load_lora_weights(dict(weights), adapter_name="theirs")
    try:
        pipeline.set_adapters(["theirs"], [0.8])
        theirs = yardstick.edit(
            pipeline, images, PROMPT, seed=7, steps=STEPS, true_cfg_scale=cfg, size=ours.shape[1::-1]
        )
    finally:
        pipeline.unload_lora_weights()
    assert (ours != plain).any()
    np.testing.assert_array_equal(ours, theirs)
    assert np.abs(faster.astype(int) - theirs.astype(int)).max() <= 1
    np.testing.assert_array_equal(render(exact, images, [PROMPT], [7], cfg)[0], plain)


def test_an_image_alone_and_in_a_mixed_batch_agrees_within_one_level(editor: Editor, photo: Image.Image) -> None:
    images = pictures(photo, "square", 1)
    prompts = [PROMPT, "make the circle red", "remove the small green star over there", PROMPT]
    together = render(editor, images, prompts, [1, 2, 3, 4], 4.0)
    for index, prompt in enumerate(prompts):
        alone = render(editor, images, [prompt], [index + 1], 4.0)[0]
        assert np.abs(alone.astype(int) - together[index].astype(int)).max() <= 1


def test_prompts_of_equal_length_share_forwards_and_guidance_shares_one(editor: Editor, photo: Image.Image) -> None:
    calls: list[int] = []
    hook = editor.transformer.img_in.register_forward_hook(lambda _, inputs, __: calls.append(len(inputs[0])))
    try:
        prompts = [PROMPT, PROMPT, "make it a good deal brighter"]
        render(editor, pictures(photo, "square", 1), prompts, [1, 2, 3], 4.0, 1)
    finally:
        hook.remove()
    assert sorted(calls) == [1, 2, 3]


def test_pictures_are_encoded_once_for_all_prompts(editor: Editor, photo: Image.Image) -> None:
    looks: list[int] = []
    hook = editor.text_encoder.model.visual.register_forward_hook(lambda *_: looks.append(1))
    try:
        render(editor, pictures(photo, "square", 2), [PROMPT, "remove it", "invert it"], [1, 2, 3], 4.0, 1)
    finally:
        hook.remove()
    assert len(looks) == 1
