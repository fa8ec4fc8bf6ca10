"""A bridge in the engine: nothing while untrained, every visual token when trained, never lost in silence."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from darkroom.errors import Internal, InvalidInput
from darkroom.models import bridge as bridges
from darkroom.models.bridge import Bridge, digest, from_bytes, fuse, to_bytes, untrained
from darkroom.models.editor import Editor
from darkroom.models.enhanced import EnhancedEditor, Sampling, form_for, make_sure, sight_grid
from darkroom.models.sight import VisualTokens
from darkroom.models.vision import Sight, VisionExtractor, interpolate
from darkroom.technique.bridge import BridgeConfig

CPU = torch.device("cpu")
QUICK = Sampling(steps=2, true_cfg_scale=2.0, size=(64, 64))


@pytest.fixture(scope="module")
def eyes(vision_folder: Path) -> VisionExtractor:
    return VisionExtractor.load(vision_folder, CPU, language=False)


@pytest.fixture(scope="module")
def plain(editor: Editor, eyes: VisionExtractor) -> Bridge:
    return untrained(form_for(editor, eyes, rank=8))


@pytest.fixture(scope="module")
def opened(plain: Bridge) -> Bridge:
    """A bridge whose gate is open, as training leaves it."""
    return with_gate(plain, 0.5)


def with_gate(bridge: Bridge, value: float) -> Bridge:
    opened = from_bytes(to_bytes(bridge))
    assert opened.module.gate is not None
    opened.module.gate.data.fill_(value)
    return opened


@pytest.fixture(scope="module")
def pictures(photo: Image.Image) -> list[Image.Image]:
    return [photo.crop((0, 0, 300, 200)), photo.crop((100, 100, 228, 356))]


def test_untrained_the_enhanced_edit_is_the_baseline_bit_for_bit(
    editor: Editor, eyes: VisionExtractor, plain: Bridge, photo: Image.Image
) -> None:
    enhanced = EnhancedEditor(editor, plain)
    before, after, pair = enhanced.compare([photo], enhanced.sights(eyes, [photo]), "paint it over", QUICK, [1])
    assert plain.is_identity
    assert torch.equal(before, after)
    assert pair.enhanced.visual.bridged == len(pair.baseline.visual.tokens)


def test_trained_it_changes_both_branches_for_all_pictures(
    editor: Editor, eyes: VisionExtractor, opened: Bridge, pictures: list[Image.Image]
) -> None:
    enhanced = EnhancedEditor(editor, opened)
    pair = enhanced.pair(pictures, enhanced.sights(eyes, pictures))
    for one, other in zip(pair.baseline.visual.tokens, pair.enhanced.visual.tokens, strict=True):
        assert not torch.equal(one, other)
    sides = [enhanced.condition("paint it over", side, QUICK) for side in (pair.baseline, pair.enhanced)]
    make_sure(opened, pair, *sides)
    assert sides[0].negative is not None
    assert sides[1].negative is not None
    assert not torch.equal(sides[0].negative, sides[1].negative)
    assert not torch.equal(sides[0].prompts[0], sides[1].prompts[0])


def test_the_language_model_reads_exactly_what_the_bridge_said(
    editor: Editor, eyes: VisionExtractor, opened: Bridge, photo: Image.Image
) -> None:
    enhanced = EnhancedEditor(editor, opened)
    pair = enhanced.pair([photo], enhanced.sights(eyes, [photo]))
    with torch.no_grad():
        levels = enhanced.sights(eyes, [photo])[0].levels
        expected, _ = opened.module(pair.baseline.visual.tokens, levels)
    read: list[torch.Tensor] = []
    hook = editor.text_encoder.model.language_model.register_forward_pre_hook(
        lambda module, args, named: read.append(named["inputs_embeds"][0]), with_kwargs=True
    )
    try:
        editor.condition(["find it"], pair.enhanced)
    finally:
        hook.remove()
    start = next(i for i in range(len(read[0])) if torch.equal(read[0][i], expected[0]))
    assert torch.equal(read[0][start : start + len(expected)], expected)


def test_a_bridge_that_is_lost_on_the_way_fails_the_job(
    editor: Editor, eyes: VisionExtractor, opened: Bridge, photo: Image.Image
) -> None:
    enhanced = EnhancedEditor(editor, opened)
    pair = enhanced.pair([photo], enhanced.sights(eyes, [photo]))
    own = pair.baseline.visual.tokens

    def undo(_module: Any, args: Any, named: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        embeds = named["inputs_embeds"].clone()
        places = (embeds[0].unsqueeze(1) == pair.enhanced.visual.tokens).all(-1).any(-1)
        embeds[0, places] = own
        return args, {**named, "inputs_embeds": embeds}

    language_model = editor.text_encoder.model.language_model
    hook = language_model.register_forward_pre_hook(undo, with_kwargs=True)
    try:
        with pytest.raises(Internal, match="did not reach the text encoder"):
            editor.condition(["lose it"], pair.enhanced)
    finally:
        hook.remove()
    assert not language_model._forward_pre_hooks
    assert editor.condition(["lose it"], pair.enhanced).prompts


def test_baseline_under_the_name_of_enhanced_is_found_out(
    editor: Editor, eyes: VisionExtractor, opened: Bridge, plain: Bridge, photo: Image.Image
) -> None:
    enhanced = EnhancedEditor(editor, opened)
    pair = enhanced.pair([photo], enhanced.sights(eyes, [photo]))
    before, after = (enhanced.condition("paint it again", side, QUICK) for side in (pair.baseline, pair.enhanced))
    make_sure(opened, pair, before, after)
    with pytest.raises(Internal, match="embeddings"):
        make_sure(opened, pair, before, before)
    with pytest.raises(Internal, match="embeddings"):
        make_sure(opened, pair, before, replace(after, negative=before.negative))
    with pytest.raises(Internal, match="visual tokens"):
        make_sure(opened, replace(pair, enhanced=pair.baseline), before, after)
    with pytest.raises(Internal, match="visual tokens"):
        make_sure(plain, pair, before, after)


def test_a_bridged_prompt_is_never_taken_from_the_baselines_cache(
    editor: Editor, eyes: VisionExtractor, opened: Bridge, photo: Image.Image
) -> None:
    picture = photo.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    known = editor.encodings.counts
    enhanced = EnhancedEditor(editor, opened)
    sights = enhanced.sights(eyes, [picture])
    for bridge in (opened, with_gate(opened, 0.25)):
        pair = EnhancedEditor(editor, bridge).pair([picture], sights)
        sides = [editor.condition(["the same words"], side).prompts[0] for side in (pair.baseline, pair.enhanced)]
        assert not torch.equal(*sides)
    # Latents and sight; the baseline's prompt once, each bridge's once.
    assert editor.encodings.counts.since(known).misses == 2 + 3


def test_what_the_vae_gets_and_what_is_seen_can_differ(editor: Editor, photo: Image.Image) -> None:
    other = photo.rotate(90)
    mixed = editor.reference([photo], sight_images=[other])
    assert torch.equal(mixed.latents, editor.reference([photo]).latents)
    assert torch.equal(mixed.visual.tokens, editor.reference([other]).visual.tokens)
    with pytest.raises(ValueError, match=r"1 pictures have 2 sight images"):
        editor.reference([photo], sight_images=[photo, other])


@pytest.mark.parametrize("size", [(300, 200), (128, 128), (64, 640), (1000, 37)])
def test_the_grid_is_known_before_the_editor_looks(editor: Editor, size: tuple[int, int]) -> None:
    grid = sight_grid(size, editor.areas, editor.processor.image_processor)
    visual = editor.reference([Image.new("RGB", size, "blue")]).visual
    assert bridges.merged_grids(visual, 2) == [grid]


def test_sights_on_a_grid_of_their_own_are_interpolated(editor: Editor, eyes: VisionExtractor, opened: Bridge) -> None:
    picture = Image.effect_noise((640, 384), 80).convert("RGB")
    visual = editor.reference([picture]).visual
    enhanced = EnhancedEditor(editor, opened)
    (sight,) = enhanced.sights(eyes, [picture], exact=False)
    (grid,) = bridges.merged_grids(visual, 2)
    assert sight.grid == (6, 10) != grid
    moved = [interpolate(level, sight.grid, grid) for level in sight.levels]
    with torch.no_grad():
        expected, _ = opened.module(visual.tokens, moved)
    assert torch.equal(fuse(opened, visual, [sight], 2).visual.tokens, expected)


def test_attention_is_drawn_on_the_pictures_own_grid(
    editor: Editor, eyes: VisionExtractor, opened: Bridge, pictures: list[Image.Image]
) -> None:
    enhanced = EnhancedEditor(editor, opened)
    pair = enhanced.pair(pictures, enhanced.sights(eyes, pictures))
    grids = bridges.merged_grids(pair.baseline.visual, 2)
    assert [tuple(a.shape) for a in pair.attention if a is not None] == [(*grid, 3) for grid in grids]
    mlp = EnhancedEditor(editor, untrained(form_for(editor, eyes, fusion="mlp", rank=4)))
    assert mlp.pair(pictures, mlp.sights(eyes, pictures)).attention == (None, None)


def test_other_pairs_of_vision_models_can_be_bridged(editor: Editor, photo: Image.Image) -> None:
    """Qwen2.5-VL's own blocks of full attention, one deeper model helping another, as any two that give features."""
    from darkroom.pocket.family import make_text_encoder

    torch.manual_seed(3)
    other = make_text_encoder(editor.processor.tokenizer).requires_grad_(False)
    last = len(other.model.visual.blocks) - 1
    other.model.visual.config.fullatt_block_indexes = [0, last]
    eyes = VisionExtractor(other.model, editor.processor.image_processor, editor.processor.tokenizer)
    bridge = with_gate(untrained(form_for(editor, eyes, rank=8)), 0.5)
    assert bridge.config.levels == 1
    enhanced = EnhancedEditor(editor, bridge)
    before, after, _ = enhanced.compare([photo], enhanced.sights(eyes, [photo]), "paint it over", QUICK, [1])
    assert not torch.equal(before, after)


def test_a_file_brings_back_the_same_bridge(opened: Bridge) -> None:
    told = Bridge(opened.module, {"steps": 7})
    again = from_bytes(to_bytes(told))
    assert again.config == opened.config
    assert again.about == {"steps": 7}
    assert digest(again) == digest(opened)
    assert digest(with_gate(opened, 0.4)) != digest(opened)
    for name, value in opened.module.state_dict().items():
        assert torch.equal(again.module.state_dict()[name], value)


def test_the_same_seed_draws_the_same_bridge() -> None:
    form = BridgeConfig(8, 6, rank=2)
    torch.manual_seed(5)
    before = torch.get_rng_state()
    assert digest(untrained(form)) == digest(untrained(form)) != digest(untrained(form, seed=1))
    assert torch.equal(torch.get_rng_state(), before)


def test_a_bridge_for_other_dimensions_names_both_sides(editor: Editor, photo: Image.Image) -> None:
    visual = editor.reference([photo]).visual
    grid = bridges.merged_grids(visual, 2)[0]
    seen = torch.zeros(grid[0] * grid[1], 64)
    bridge = untrained(BridgeConfig(3584, 4096, rank=1))
    with pytest.raises(
        InvalidInput, match=r"3 levels of width 4096 and tokens of width 3584; .* 2 of 64 and 128"
    ):
        fuse(bridge, visual, [Sight((seen, seen), seen, grid)], 2)


def test_a_sight_that_is_missing_or_not_finite_is_no_bridge() -> None:
    bridge = with_gate(untrained(BridgeConfig(8, 6, rank=2)), 1.0)
    visual = VisualTokens(torch.ones(4, 8), torch.tensor([[1, 4, 4]]))
    level = torch.full((4, 6), torch.nan)
    with pytest.raises(Internal, match=r"1 pictures .* and 0"):
        fuse(bridge, visual, [], 2)
    with pytest.raises(Internal, match="finite"):
        fuse(bridge, visual, [Sight((level,) * 3, level, (2, 2))], 2)
