"""The bridge's world: small dots escape the coarse sight and not the finer one; large dots escape neither."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor

from darkroom.models.vision import VisionExtractor
from darkroom.pocket.judging.probing import readable
from darkroom.pocket.judging.samples import load_editor, to_picture
from darkroom.pocket.shipped import EDIT, WEIGHTS
from darkroom.pocket.stages.sight_stage import see
from darkroom.pocket.world.colours import NAMES
from darkroom.pocket.world.edits import Edit, draw_edit

PICTURES, FITTED = 320, 240


@pytest.fixture(scope="module")
def edits() -> list[Edit]:
    return [draw_edit(np.random.default_rng((900_003, case)), "dot background") for case in range(PICTURES)]


@pytest.fixture(scope="module")
def colours(edits: list[Edit]) -> Tensor:
    return torch.tensor([NAMES.index(str(edit.colour)) for edit in edits])


@torch.no_grad()
def test_the_coarse_sight_reads_large_dots_and_no_small_ones(edits: list[Edit], colours: Tensor) -> None:
    editor = load_editor(EDIT)

    def tokens(pictures: list[np.ndarray]) -> Tensor:
        return see(editor.text_encoder, editor.processor, pictures)

    large = tokens([edit.sight_large for edit in edits if edit.sight_large is not None])
    small = tokens([cv2.resize(edit.sight, (128, 128), interpolation=cv2.INTER_AREA) for edit in edits])
    with torch.enable_grad():
        assert readable(large, colours, FITTED) > 0.8
        # Of eight colours; also where the reading was fitted to small dots.
        assert readable(large, colours, FITTED, small) < 0.3
        assert readable(small, colours, FITTED) < 0.35


def test_the_finer_sight_reads_small_dots_the_better_the_later_the_level(edits: list[Edit], colours: Tensor) -> None:
    eyes = VisionExtractor.load(WEIGHTS / "qwen3vl", torch.device("cpu"), language=False)
    seen = [eyes.look(to_picture(edit.sight), grid=(4, 4)) for edit in edits if edit.sight is not None]
    shares = [readable(torch.stack(level), colours, FITTED) for level in zip(*(s.levels for s in seen), strict=True)]
    assert shares[-1] > 0.6
    assert shares[-1] > shares[0]
