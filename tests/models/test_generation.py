"""Text to image is diffusers' QwenImagePipeline: bit for bit where `exact` is set, else and in a batch within 1/255."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from darkroom.bench import yardstick
from darkroom.errors import ModelNotReady
from darkroom.media import to_uint8
from darkroom.models import generation, packing
from darkroom.models.editor import Editor
from darkroom.models.residency import OneAtATime
from darkroom.models.shelf import Shelf
from darkroom.models.sight import PromptTooLong
from darkroom.models.specs import Profile
from darkroom.technique.sampling import sample
from darkroom.workers.injection.prompting import read_base

PROMPT = "a person with long red hair and light skin, green eyes and a blue shirt"
NEGATIVE = "blurry"


@pytest.fixture(scope="module")
def exact(profile: Profile) -> Editor:
    return Shelf(replace(profile, exact=True)).editor("image")


@pytest.fixture(scope="module")
def pipeline(exact: Editor) -> Any:
    return yardstick.generator_over(exact)


def render(
    editor: Editor, prompts: list[str], seeds: list[int], cfg: float, size: tuple[int, int], steps: int = 2
) -> list[np.ndarray]:
    conditioning = generation.condition(editor, prompts, NEGATIVE if cfg > 1 else None)
    denoise = editor.denoiser(conditioning, *size, cfg)
    latents = list(sample(denoise, editor.noise(seeds, *size), editor.sigmas(steps, *size)))[-1].latents
    return [np.asarray(to_uint8(pixels)) for pixels in editor.decode(latents, *size)]


@pytest.mark.parametrize(("cfg", "size"), [(1.0, (128, 128)), (4.0, (128, 128)), (4.0, (96, 160))])
def test_one_picture_is_diffusers_picture_bit_for_bit(
    exact: Editor, editor: Editor, pipeline: Any, cfg: float, size: tuple[int, int]
) -> None:
    ours = render(exact, [PROMPT], [7], cfg, size)[0]
    theirs = yardstick.generate(
        pipeline, PROMPT, negative_prompt=NEGATIVE, seed=7, steps=2, true_cfg_scale=cfg, size=size
    )
    assert ours.std() > 0
    np.testing.assert_array_equal(ours, theirs)
    faster = render(editor, [PROMPT], [7], cfg, size)[0]
    assert np.abs(faster.astype(int) - theirs.astype(int)).max() <= 1


@pytest.mark.parametrize("prompt", [PROMPT, "", "  two\nlines <|im_end|>"])
def test_embeddings_are_diffusers_embeddings(exact: Editor, pipeline: Any, prompt: str) -> None:
    """Control tokens apart, which are read as blanks here."""
    theirs, mask = pipeline.encode_prompt(prompt.replace("<|im_end|>", " "))
    assert mask is None
    torch.testing.assert_close(generation.embed(exact, prompt), theirs[0], rtol=0, atol=0)


def test_a_picture_alone_and_in_a_mixed_batch_agrees_within_one_level(editor: Editor) -> None:
    prompts = [PROMPT, "a red star", PROMPT]
    together = render(editor, prompts, [1, 2, 3], 4.0, (128, 128))
    for index, prompt in enumerate(prompts):
        alone = render(editor, [prompt], [index + 1], 4.0, (128, 128))[0]
        assert np.abs(alone.astype(int) - together[index].astype(int)).max() <= 1


def test_the_template_is_cut_at_thirty_four_tokens(editor: Editor) -> None:
    assert generation.prefix_length(editor.processor.tokenizer) == 34
    with pytest.raises(ValueError, match="34"):
        generation.prefix_length(lambda text: {"input_ids": text.split()})


def test_a_prompt_over_the_token_limit_says_how_long_it_is(editor: Editor) -> None:
    with pytest.raises(PromptTooLong, match="the limit is 1024"):
        generation.embed(editor, "zq " * 1500)


def test_a_family_without_a_processor_reads_by_its_tokenizer(profile: Profile, image_family: Path) -> None:
    spec = replace(profile.models["image"], repo=str(image_family), from_text=True)
    shelf = Shelf(replace(profile, models={"edit": profile.models["edit"], "image": spec}))
    image, edit = shelf.editor("image"), shelf.editor("edit")
    assert image.transformer is edit.transformer
    torch.testing.assert_close(generation.embed(image, PROMPT), generation.embed(edit, PROMPT), rtol=0, atol=0)


def test_a_family_that_reads_by_its_tokenizer_alone_is_packed_and_makes_the_same_embeddings(
    profile: Profile, image_family: Path, tmp_path: Path
) -> None:
    spec = replace(profile.models["image"], repo=str(image_family), from_text=True)
    packing.pack(spec, tmp_path / "out", "pocket", "float32")
    assert not (tmp_path / "out" / "processor").exists()
    found = [
        generation.embed(Shelf(replace(profile, models={"image": one})).editor("image"), PROMPT)
        for one in (spec, replace(spec, repo=str(tmp_path / "out")))
    ]
    torch.testing.assert_close(*found, rtol=0, atol=0)
    with pytest.raises(ModelNotReady, match="no part 'processor'"):
        packing.pack(replace(spec, from_text=False), tmp_path / "edit", "pocket", "float32")


def test_where_parts_take_turns_a_prompt_is_read_where_its_encoder_is(profile: Profile) -> None:
    """And the gain of the transformer, which is out meanwhile, goes there, too.

    The device is meta: with what lies elsewhere nothing can be computed there.
    """
    parted = Shelf(replace(profile, cache_mib=0)).editor("image")
    # The shipped table stays in the computer's memory and puts its rows where the ids lie: meta ids would have none.
    words = torch.nn.Embedding.from_pretrained(parted.text_encoder.get_input_embeddings().weight)
    asked = list[str]()
    words.register_forward_pre_hook(lambda _, ids: asked.append(ids[0].device.type))
    parted.text_encoder.set_input_embeddings(words)
    parted.residency = OneAtATime(torch.device("meta"))
    base = read_base(parted, "a portrait of ~ID~", 3)
    assert parted.transformer.device.type == "cpu"
    assert asked == ["meta"]
    assert (base.embeds.device.type, base.gain.device.type) == ("meta", "meta")
