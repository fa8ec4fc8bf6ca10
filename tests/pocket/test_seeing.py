"""The pocket Qwen3-VL's stage: descriptions say what the picture shows; the stage learns, resumes and can tell."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from transformers import Qwen3VLForConditionalGeneration

from darkroom.pocket.qwen3vl import make_model, make_processor
from darkroom.pocket.stages.course import Course
from darkroom.pocket.stages.qwen3vl_stage import Qwen3VLRecipe, tell, train_qwen3vl
from darkroom.pocket.tokens import train_tokenizer
from darkroom.pocket.world.colours import rgb
from darkroom.pocket.world.describe import describe, draw_described, place_name
from darkroom.pocket.world.scenes import Item

RECIPE = Qwen3VLRecipe(steps=6, batch=2, warmup=2)


def test_a_description_names_every_shape_and_the_dot_with_its_place() -> None:
    items = [Item("star", "orange", 100, 110, 20), Item("ring", "blue", 20, 20, 14)]
    text = describe(items, [Item("circle", "red", 64, 64, 1.5)], 128)
    assert text == "a blue ring at the top left, an orange star at the bottom right, a red dot at the middle center"


def test_what_is_described_is_in_the_picture() -> None:
    kinds = set()
    for case in range(30):
        drawn = draw_described(np.random.default_rng((5, case)))
        assert drawn.picture.shape == (256, 256, 3)
        kinds.add((drawn.items is None, not drawn.dots))
        if drawn.person is not None:
            assert drawn.text.startswith(drawn.person.caption())
        for item in (*(drawn.items or ()), *drawn.dots):
            assert f"{item.colour} {'dot' if item in drawn.dots else item.shape} at the" in drawn.text
            assert place_name(item, 256) in drawn.text
            if item.shape != "ring":
                assert np.allclose(drawn.picture[int(item.y), int(item.x)], rgb(item.colour), atol=0.02)
    assert len(kinds) == 3


def test_the_stage_learns_and_resumes_to_the_same_weights(tmp_path: Path) -> None:
    processor = make_processor(train_tokenizer())

    def run(name: str, *stops: int) -> tuple[Qwen3VLForConditionalGeneration, list[float]]:
        torch.manual_seed(0)
        model = make_model(processor.tokenizer)
        losses: list[float] = []
        for stop in stops:
            losses += train_qwen3vl(model, processor, RECIPE, tmp_path / name, Course(), until_step=stop)
        return model, losses

    whole, losses = run("whole.pt", 6)
    halves, _ = run("halves.pt", 3, 6)
    assert losses[-1] < losses[0]
    assert all(torch.equal(one, other) for one, other in zip(whole.parameters(), halves.parameters(), strict=True))
    assert isinstance(tell(whole, processor, Image.new("RGB", (256, 256), "red")), str)
