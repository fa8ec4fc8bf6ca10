"""Pictures encoded for training: each once, in order, whatever stands beside it."""

from typing import Any

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKLQwenImage
from torch import Tensor

from darkroom.pocket.family import assemble
from darkroom.pocket.stages import cells
from darkroom.pocket.stages.cells import Encoder

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def vae() -> AutoencoderKLQwenImage:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        vae = assemble().vae
    vae.register_to_config(latents_mean=[0.5] * 16, latents_std=[2.0] * 16)
    return vae


@pytest.fixture
def sizes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many pictures were encoded together each time."""
    seen: list[int] = []
    means = cells._means

    def noted(lean: Any, images: Tensor) -> Tensor:
        seen.append(len(images))
        return means(lean, images)

    monkeypatch.setattr(cells, "_means", noted)
    monkeypatch.setattr(cells, "compiled", lambda step, device, dynamic: step)
    return seen


def pictures(count: int) -> cells.Bytes:
    return np.random.default_rng(0).integers(0, 256, (count, 32, 32, 3), dtype=np.uint8)


def test_equal_pictures_are_encoded_once_and_stay_in_order(vae: AutoencoderKLQwenImage, sizes: list[int]) -> None:
    one, third = pictures(2)
    other = np.full_like(one, 255)
    encoder = Encoder(vae, CPU)
    found = encoder(np.stack([one, other, one, third, other]))
    assert sizes == [3]
    alone = torch.cat([encoder(picture[None]) for picture in (one, other, one, third, other)])
    # In bfloat16, which CPUs with tiles for it take, a convolution rounds by the number of pictures beside it.
    torch.testing.assert_close(found, alone, atol=0.02, rtol=0)
    assert torch.equal(found[[0, 1]], found[[2, 4]])
    assert (found[0] - found[1]).abs().max() > 0.05


def test_compiled_code_meets_one_number_of_pictures(vae: AutoencoderKLQwenImage, sizes: list[int]) -> None:
    images = pictures(30)
    expected = Encoder(vae, CPU)(images)
    assert sizes == [24, 6]
    torch.testing.assert_close(Encoder(vae, CPU, compiles=True)(images), expected, atol=0.02, rtol=0)
    assert sizes[2:] == [24, 24]
    assert expected.shape == (30, 4, 64)
    assert expected.dtype == torch.float16
