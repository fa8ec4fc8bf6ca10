"""Rulers of pictures against closed forms and scikit-image's own."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from skimage.metrics import peak_signal_noise_ratio, structural_similarity
from torch import Tensor

from darkroom.technique.likeness import (
    MOST_PSNR,
    Pixels,
    as_pixels,
    as_tensor,
    centroid,
    nearer,
    perceptual,
    psnr,
    registered,
    ssim,
)

ASSETS = Path(__file__).parent.parent / "assets"


@pytest.fixture(scope="module")
def photo() -> Pixels:
    with Image.open(ASSETS / "coffee.jpg") as image:
        return np.asarray(image.convert("RGB").resize((128, 96)), dtype=np.float32) / np.float32(255)


@pytest.fixture
def noisy(photo: Pixels) -> Pixels:
    noise = np.random.default_rng(0).normal(0, 0.05, photo.shape)
    return (photo + noise).clip(0, 1).astype(np.float32)


def left(picture: Pixels, columns: int) -> np.ndarray:
    mask = np.zeros(picture.shape[:2], dtype=bool)
    mask[:, :columns] = True
    return mask


def squared(one: Tensor, other: Tensor) -> Tensor:
    return (one - other).square().mean(dim=(1, 2, 3))


def test_everywhere_the_rulers_are_scikit_images(photo: Pixels, noisy: Pixels) -> None:
    everywhere = left(photo, 128)
    one, other = noisy.astype(np.float64), photo.astype(np.float64)
    assert psnr(noisy, photo, everywhere) == pytest.approx(peak_signal_noise_ratio(other, one, data_range=1.0))
    assert ssim(noisy, photo, everywhere) == pytest.approx(
        structural_similarity(one, other, channel_axis=-1, data_range=1.0), abs=1e-6
    )


def test_what_lies_outside_the_mask_does_not_count(photo: Pixels, noisy: Pixels) -> None:
    half = left(photo, 64)
    ruined = noisy.copy()
    ruined[:, 64:] = 0
    for ruler in (psnr, ssim):
        assert ruler(ruined, photo, half) == ruler(noisy, photo, half)
    assert perceptual(ruined, photo, half, squared) == perceptual(noisy, photo, half, squared)
    # Tensors span two units where pictures span one, and half of the pixels are alike.
    assert perceptual(noisy, photo, half, squared) == pytest.approx(4 * np.mean((noisy - photo)[:, :64] ** 2) / 2)


def test_equal_pictures_are_at_the_rulers_ends(photo: Pixels) -> None:
    everywhere = left(photo, 128)
    assert psnr(photo, photo, everywhere) == MOST_PSNR
    assert ssim(photo, photo, everywhere) == pytest.approx(1.0)


def test_a_shifted_picture_is_registered_before_it_is_judged(photo: Pixels) -> None:
    inner = (slice(8, -8), slice(8, -8))
    moved = np.roll(photo, (1, 2), axis=(0, 1))
    assert np.abs(moved - photo)[inner].mean() > 5 * np.abs(registered(moved, photo) - photo)[inner].mean()


def test_pixels_and_tensors_are_each_others_inverse(photo: Pixels) -> None:
    np.testing.assert_allclose(as_pixels(as_tensor(photo)), photo, atol=1e-6)


def test_a_colour_is_found_where_it_lies() -> None:
    red, white = np.array([1.0, 0.0, 0.0], np.float32), np.array([1.0, 1.0, 1.0], np.float32)
    picture = np.ones((20, 30, 3), np.float32)
    picture[4:7, 10:15] = red
    mask = nearer(picture, red, [white])
    assert mask.sum() == 15
    assert centroid(mask) == (12.0, 5.0)
    assert centroid(np.zeros((4, 4), dtype=bool)) is None
