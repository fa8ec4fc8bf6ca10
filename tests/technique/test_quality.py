from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from darkroom.technique.quality import diversity, sharpness


def noise(seed: int = 0) -> Tensor:
    return torch.rand(1, 3, 24, 32, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def test_sharpness_is_opencvs_variance_of_the_laplacian() -> None:
    pixels = noise()
    levels = ((pixels[0] + 1) * 127.5).permute(1, 2, 0).numpy()
    luma = cv2.cvtColor(levels.astype(np.float32), cv2.COLOR_RGB2GRAY).astype(np.float64)
    expected = cv2.Laplacian(luma, cv2.CV_64F)[1:-1, 1:-1].var()
    assert float(sharpness(pixels)) == pytest.approx(expected, rel=1e-4)


def test_a_blurred_picture_is_less_sharp_and_a_flat_one_not_at_all() -> None:
    pixels = noise()
    blurred = functional.avg_pool2d(pixels, 3, 1, 1)
    assert float(sharpness(blurred)) < float(sharpness(pixels))
    assert float(sharpness(torch.zeros(1, 3, 8, 8))) == 0


def test_diversity_is_the_mean_over_all_pairs() -> None:
    def distance(one: Tensor, other: Tensor) -> Tensor:
        return (one - other).abs().mean(dim=(1, 2, 3))

    pixels = torch.tensor([0.0, 0.5, 1.0]).view(3, 1, 1, 1).expand(3, 3, 4, 4)
    assert diversity(pixels, distance) == pytest.approx((0.5 + 1.0 + 0.5) / 3)
    assert diversity(pixels[:1], distance) is None
