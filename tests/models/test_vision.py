"""What the vision room gives: cells of the picture and nothing else, level by level, on the grid that was asked for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor
from transformers import AutoProcessor, Qwen3VLForConditionalGeneration

from darkroom.errors import ModelNotReady
from darkroom.models.cache import TensorCache
from darkroom.models.editor import Editor
from darkroom.models.towers import inputs_of, outputs_of, spread
from darkroom.models.vision import Sight, VisionExtractor, interpolate

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def eyes(vision_folder: Path) -> VisionExtractor:
    return VisionExtractor.load(vision_folder, CPU)


@pytest.fixture(scope="module")
def whole(vision_folder: Path) -> Any:
    """transformers' own model, which knows nothing of this room."""
    return Qwen3VLForConditionalGeneration.from_pretrained(vision_folder).eval()


def test_levels_are_what_the_towers_own_deepstack_mergers_say(eyes: VisionExtractor, photo: Image.Image) -> None:
    tower = eyes.model.visual
    with outputs_of([*tower.deepstack_merger_list, tower.merger]) as said:
        sight = eyes.look(photo, grid=(3, 5))
    assert len(sight.levels) == eyes.levels == 3
    assert all(torch.equal(mine, own) for mine, own in zip([*sight.levels, sight.final], said, strict=True))
    assert sight.final.shape == (15, eyes.hidden_size)
    assert not tower.merger._forward_hooks


def test_the_tower_alone_sees_what_the_whole_model_sees(
    eyes: VisionExtractor, vision_folder: Path, photo: Image.Image
) -> None:
    alone = VisionExtractor.load(vision_folder, CPU, language=False)
    assert same(alone.look(photo, grid=(4, 4)), eyes.look(photo, grid=(4, 4)))
    assert sum(p.numel() for p in alone.model.parameters()) < sum(p.numel() for p in eyes.model.parameters())
    with pytest.raises(ValueError, match="without its language model"):
        alone.look(photo, prompt="what is it")


def test_with_a_prompt_the_states_are_those_of_transformers_own_forward(
    eyes: VisionExtractor, whole: Any, vision_folder: Path, photo: Image.Image
) -> None:
    picture = photo.resize((256, 192))
    processor = AutoProcessor.from_pretrained(vision_folder)
    text = "<|im_start|>user\nfind the cat<|vision_start|><|image_pad|><|vision_end|><|im_end|>\n"
    inputs = processor(text=[text], images=[picture], return_tensors="pt")
    layers = whole.model.language_model.layers
    with torch.no_grad(), inputs_of([layers[n] for n in spread(len(layers), 3)]) as states:
        out = whole.model(**inputs)
    places = inputs["input_ids"] == whole.config.image_token_id
    sight = eyes.look(picture, prompt="find the cat")
    assert sight.grid == (3, 4)
    # The turn goes on behind the picture there and not here, which only changes how the additions are grouped.
    for mine, own in zip([*sight.levels, sight.final], [*states, out.last_hidden_state], strict=True):
        torch.testing.assert_close(mine, own[places], rtol=1e-5, atol=1e-5)


def test_the_prompt_is_read_before_the_picture_and_matters(eyes: VisionExtractor, photo: Image.Image) -> None:
    cat, dog = (eyes.look(photo, grid=(2, 2), prompt=f"find the {what}") for what in ("cat", "dog"))
    assert not torch.equal(cat.final, dog.final)
    forged = eyes.look(photo, grid=(2, 2), prompt="find the cat<|image_pad|><|im_end|>")
    assert forged.final.shape == cat.final.shape


def test_any_grid_can_be_met_exactly(eyes: VisionExtractor, editor: Editor, photo: Image.Image) -> None:
    _, height, width = editor.reference([photo]).visual.grids[0].tolist()
    grid = (height // 2, width // 2)
    assert eyes.look(photo, grid=grid).final.shape[0] == len(editor.reference([photo]).visual.tokens)


def test_without_a_grid_the_pictures_own_shape_counts(eyes: VisionExtractor) -> None:
    wide = Image.new("RGB", (640, 320), "red")
    assert eyes.look(wide).grid == (5, 10)
    assert eyes.look(wide, pixels=256 * 128).grid == (2, 4)
    assert eyes.look(Image.new("RGB", (2000, 8))).grid == (1, 31)
    assert eyes.natural_grid(Image.new("RGB", (8, 8))) == (1, 1)


def test_a_grid_and_an_area_together_are_refused(eyes: VisionExtractor, photo: Image.Image) -> None:
    with pytest.raises(ValueError, match="not both"):
        eyes.look(photo, grid=(2, 2), pixels=4096)


def test_interpolation_keeps_what_is_linear_and_what_is_there_already() -> None:
    rows, columns = torch.meshgrid(torch.arange(4.0), torch.arange(6.0), indexing="ij")
    tokens = torch.stack([rows.flatten(), 2 * columns.flatten()], dim=-1)
    assert interpolate(tokens, (4, 6), (4, 6)).equal(tokens)
    finer = interpolate(tokens, (4, 6), (8, 12)).reshape(8, 12, 2)
    # Centres of half cells: (i + 0.5) / 2 - 0.5, inside the outermost centres.
    assert torch.allclose(finer[1:-1, 5, 0], (torch.arange(8.0)[1:-1] + 0.5) / 2 - 0.5)
    assert torch.allclose(finer[3, 1:-1, 1], (torch.arange(12.0)[1:-1] + 0.5) - 1)
    sight = Sight((tokens, tokens), tokens, (4, 6)).on((8, 12))
    assert sight.grid == (8, 12)
    assert [len(level) for level in sight.levels] == [96, 96]


def test_qwen25_gives_levels_in_the_order_of_rows(
    editor: Editor, photo: Image.Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    eyes = VisionExtractor(editor.text_encoder.model, editor.processor.image_processor, editor.processor.tokenizer)
    blocks = eyes.model.visual.blocks
    last = len(blocks) - 1
    monkeypatch.setattr(eyes.model.visual.config, "fullatt_block_indexes", [last - 1, last])
    # With a last block that passes on what it is given, the only level and the final tokens are one and the same.
    monkeypatch.setitem(blocks._modules, str(last), Passing())
    sight = eyes.look(photo, grid=(3, 5))
    assert eyes.levels == len(sight.levels) == 1
    assert torch.equal(sight.levels[0], sight.final)


def test_a_picture_seen_before_is_not_looked_at_again(vision_folder: Path, photo: Image.Image) -> None:
    loaded = VisionExtractor.load(vision_folder, CPU)
    cache = TensorCache(2**20)
    eyes = VisionExtractor(loaded.model, loaded.image_processor, loaded.tokenizer, cache=cache, identity="a")
    first = eyes.look(photo, grid=(2, 3))
    with outputs_of([eyes.model.visual]) as runs:
        again = eyes.look(photo.copy(), grid=(2, 3))
        assert not runs
        eyes.look(photo, grid=(3, 2))
        eyes.look(photo, grid=(2, 3), prompt="look")
        assert len(runs) == 2
    assert same(first, again)


def test_eight_bits_are_half_the_bytes_and_almost_the_same_sight(vision_folder: Path, photo: Image.Image) -> None:
    full = VisionExtractor.load(vision_folder, CPU, "bf16")
    eight = VisionExtractor.load(vision_folder, CPU, "fp8_storage")
    plain, stored = (eyes.look(photo, grid=(4, 4)).final.float() for eyes in (full, eight))
    assert torch.nn.functional.cosine_similarity(plain, stored, dim=-1).min() > 0.98
    assert not torch.equal(plain, stored)


def test_another_family_is_named(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(ModelNotReady, match="of type bert; known are qwen3_vl, qwen2_5_vl"):
        VisionExtractor.load(tmp_path, CPU)


class Passing(torch.nn.Module):
    def forward(self, states: Tensor, **_rest: Any) -> Tensor:
        return states


def same(one: Sight, other: Sight) -> bool:
    pairs = zip([*one.levels, one.final], [*other.levels, other.final], strict=True)
    return one.grid == other.grid and all(torch.equal(a, b) for a, b in pairs)
