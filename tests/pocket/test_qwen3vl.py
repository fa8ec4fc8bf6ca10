"""The pocket Qwen3-VL is the real class, saved and loaded as the real one is."""

from pathlib import Path

import pytest
import torch
from PIL import Image
from transformers import AutoProcessor, Qwen3VLForConditionalGeneration

from darkroom.pocket.qwen3vl import CELL_PIXELS, DEEPSTACK, build


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("qwen3vl"))


def test_a_cell_is_twice_as_long_as_qwen25s_and_three_levels_leave_the_tower(folder: Path) -> None:
    model = Qwen3VLForConditionalGeneration.from_pretrained(folder)
    processor = AutoProcessor.from_pretrained(folder)
    inputs = processor.image_processor([Image.new("RGB", (256, 192), "red")], return_tensors="pt")
    seen = model.model.visual(inputs["pixel_values"], grid_thw=inputs["image_grid_thw"])
    cells = (256 // CELL_PIXELS) * (192 // CELL_PIXELS)
    assert seen.pooler_output.shape == (cells, 128)
    assert [level.shape for level in seen.deepstack_features] == [(cells, 128)] * len(DEEPSTACK)
    assert model.dtype == torch.float32


def test_the_same_seed_writes_the_same_bytes(folder: Path, tmp_path: Path) -> None:
    again = build(tmp_path)
    assert (again / "model.safetensors").read_bytes() == (folder / "model.safetensors").read_bytes()


def test_it_reads_a_chat_with_a_picture_and_goes_on_in_words(folder: Path) -> None:
    model = Qwen3VLForConditionalGeneration.from_pretrained(folder)
    processor = AutoProcessor.from_pretrained(folder)
    chat = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "what is it"}]}]
    text = processor.apply_chat_template(chat, add_generation_prompt=True)
    inputs = processor(text=[text], images=[Image.new("RGB", (128, 128), "red")], return_tensors="pt")
    with torch.no_grad():
        told = model.generate(**inputs, max_new_tokens=3, do_sample=False)
    assert told.shape[1] == inputs["input_ids"].shape[1] + 3
