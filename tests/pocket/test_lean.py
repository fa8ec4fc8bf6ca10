"""What training computes is what the real classes compute."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from diffusers import QwenImageEditPlusPipeline, QwenImageTransformer2DModel

from darkroom.models.single_frame import absorb, single_frame
from darkroom.pocket.family import assemble
from darkroom.pocket.stages.cells import Encoder
from darkroom.pocket.stages.lean_transformer import prepare, restore, rotary, velocity
from darkroom.pocket.stages.pairs import prompt_ids
from darkroom.pocket.stages.prompts import EDIT_PREFIX_LENGTH, embed, positions, unseen_prefix
from darkroom.pocket.stages.sight_stage import see
from darkroom.pocket.stages.transformer_start import start_transformer
from darkroom.pocket.tokens import EDIT_PREFIX, EDIT_SUFFIX
from darkroom.pocket.world.scenes import draw_scene

GRID = (1, 8, 8)


@pytest.fixture(scope="module")
def family() -> QwenImageEditPlusPipeline:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return assemble()


@pytest.mark.parametrize("zero_cond_t", [True, False])
@torch.no_grad()
def test_the_lean_transformer_equals_diffusers_own_before_and_after(
    family: QwenImageEditPlusPipeline, zero_cond_t: bool
) -> None:
    model = family.transformer
    # 2509's form has the same weights.
    form = QwenImageTransformer2DModel.from_config({**model.config, "zero_cond_t": zero_cond_t})
    form.load_state_dict(model.state_dict())
    noisy, reference, words = torch.randn(2, 64, 64), torch.randn(2, 64, 64), torch.randn(2, 9, 128)
    sigma = torch.tensor([0.9, 0.2])

    def theirs(whose: QwenImageTransformer2DModel) -> torch.Tensor:
        tokens = torch.cat([noisy, reference], dim=1)
        out: torch.Tensor = whose(tokens, words, timestep=sigma, img_shapes=[[GRID, GRID]] * 2, return_dict=False)[0]
        return out[:, :64]

    expected, before = theirs(form), theirs(model)
    prepare(model)
    held = torch.zeros_like(sigma) if zero_cond_t else sigma
    lean, hidden = velocity(model, noisy, reference, words, torch.stack([sigma, held]), rotary(model, [(8, 8)] * 2, 9))
    assert [cells.shape for cells in hidden] == [(2, 128, 192)] * 5
    restore(model)
    torch.testing.assert_close(lean, expected, atol=1e-5, rtol=1e-4)
    assert torch.equal(theirs(model), before)


@torch.no_grad()
def test_the_single_frame_vae_equals_the_video_one_and_gives_its_weights_back(
    family: QwenImageEditPlusPipeline,
) -> None:
    lean = single_frame(family.vae)
    image = torch.rand(1, 3, 1, 32, 32) * 2 - 1
    expected = family.vae.encode(image).latent_dist.mode()
    torch.testing.assert_close(lean.quant_conv(lean.encoder(image))[:, :16], expected, atol=1e-5, rtol=1e-4)
    decoded = lean.decoder(lean.post_quant_conv(expected)).clamp(-1, 1)
    torch.testing.assert_close(decoded, family.vae.decode(expected).sample, atol=1e-5, rtol=1e-4)
    emptied = single_frame(family.vae)
    for parameter in emptied.parameters():
        parameter.mul_(0.5)
    absorb(family.vae, emptied)
    half = emptied.quant_conv(emptied.encoder(image))[:, :16]
    torch.testing.assert_close(family.vae.encode(image).latent_dist.mode(), half, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(("pictures", "width", "height"), [(1, 128, 128), (3, 160, 96)])
@torch.no_grad()
def test_prompts_in_training_equal_the_whole_encoder_with_three_dimensional_positions(
    family: QwenImageEditPlusPipeline, pictures: int, width: int, height: int
) -> None:
    images = [draw_scene(np.random.default_rng(number), width, height).render() for number in range(pictures)]
    instruction = "make the circle red"
    grids = [(height // 32, width // 32)] * pictures
    ids = torch.tensor(prompt_ids(family.tokenizer, instruction, grids))
    places = positions(family.text_encoder, ids, grids)
    seen = see(family.text_encoder, family.processor, images).flatten(0, 1)[None]
    ours = embed(family.text_encoder, ids[None], seen, places)
    bytes_ = [torch.from_numpy(np.round(image * 255).astype(np.uint8)).permute(2, 0, 1) for image in images]
    places_of = "".join(f"Picture {n + 1}: <|vision_start|><|image_pad|><|vision_end|>" for n in range(pictures))
    prompt = f"{EDIT_PREFIX}{places_of}{instruction}{EDIT_SUFFIX}"
    inputs = family.processor(text=[prompt], images=bytes_, return_tensors="pt")
    assert inputs["input_ids"][0].tolist() == ids.tolist()
    theirs = family.text_encoder(**inputs, output_hidden_states=True).hidden_states[-1][:, EDIT_PREFIX_LENGTH:]
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-4)
    time, row, column = places[:, 0, (ids == family.text_encoder.config.image_token_id)]
    first = (height // 32) * (width // 32)
    assert len(time.unique()) == pictures
    assert len(row[:first].unique()) == height // 32
    assert len(column[:first].unique()) == width // 32


@pytest.mark.parametrize("pictures", [0, 1, 3])
def test_the_prefix_is_read_once_and_learned_from_as_if_every_prompt_had_its_own(
    family: QwenImageEditPlusPipeline, pictures: int
) -> None:
    """Together and one by one, which reads each prompt's prefix anew; by the whole model in one piece."""
    grids = [(4, 4)] * pictures
    asked = ("make the star red", "make the ring blue", "paint the cross white")
    ids = torch.tensor([prompt_ids(family.tokenizer, words, grids) for words in asked])
    seen = torch.randn(3, 16 * pictures, 128, generator=torch.Generator().manual_seed(0))
    places = positions(family.text_encoder, ids[0], grids)
    weights = dict(family.text_encoder.model.language_model.named_parameters())

    def in_one_piece() -> torch.Tensor:
        model = family.text_encoder.model.language_model
        words = model.embed_tokens(ids)
        marks = (ids == family.text_encoder.config.image_token_id)[..., None]
        mixed = words.masked_scatter(marks, seen)
        hidden = model(inputs_embeds=mixed, position_ids=places.expand(3, 3, -1), use_cache=False)
        after: torch.Tensor = hidden.last_hidden_state[:, unseen_prefix(pictures > 0) :]
        return after

    together = embed(family.text_encoder, ids, seen, places)
    whole = in_one_piece()
    torch.testing.assert_close(together, whole, atol=1e-5, rtol=1e-4)
    for row in range(3):
        alone = embed(family.text_encoder, ids[row : row + 1], seen[row : row + 1], places)
        torch.testing.assert_close(together[row : row + 1], alone, atol=1e-5, rtol=1e-4)
    wanted = torch.randn(whole.shape, generator=torch.Generator().manual_seed(1))
    found, right = (
        torch.autograd.grad((told * wanted).sum(), list(weights.values()), allow_unused=True)
        for told in (together, whole)
    )
    # The embeddings of words that only the prefix has learn as well.
    for ours, theirs in zip(found, right, strict=True):
        assert ours is not None
        torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-3)


@torch.no_grad()
def test_latents_are_packed_and_normalised_as_the_pipeline_does(family: QwenImageEditPlusPipeline) -> None:
    image = draw_scene(np.random.default_rng(1)).render()
    stored = np.round(image * 255).astype(np.uint8)
    pixels = torch.from_numpy(stored / 127.5 - 1).permute(2, 0, 1)[None, :, None].float()
    theirs = family._pack_latents(family._encode_vae_image(pixels, generator=None), 1, 16, 16, 16)
    ours = Encoder(family.vae, torch.device("cpu"))(stored[None]).float()
    # In bfloat16, on CPUs with tiles for it, stored in float16: good to a hundredth of the largest value.
    assert (ours - theirs).abs().max() < 0.05 * theirs.abs().max()


@torch.no_grad()
def test_the_transformer_starts_as_a_copyist() -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = assemble().transformer
        start_transformer(model)
        reference, noise, words = torch.randn(2, 64, 64), torch.randn(2, 64, 64), torch.randn(2, 9, 128)
    for sigma in (0.3, 0.6, 1.0):
        noisy = torch.lerp(reference, noise, sigma)
        tokens = torch.cat([noisy, reference], dim=1)
        level = torch.full((2,), sigma)
        out = model(tokens, words, timestep=level, img_shapes=[[GRID, GRID]] * 2, return_dict=False)[0][:, :64]
        clean = noisy - sigma * out
        assert (clean - reference).pow(2).mean() < 0.02
