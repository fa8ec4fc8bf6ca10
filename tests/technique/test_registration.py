"""Drift against known transforms; rulers against hand-made cases."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from darkroom.technique.metrics import canny, edge_f1, frame_metrics, warp_error
from darkroom.technique.registration import Drift, drift, undo

ASSETS = Path(__file__).parent.parent / "assets"


@pytest.fixture(scope="module")
def wide() -> Tensor:
    with Image.open(ASSETS / "coffee.jpg") as image:
        values = np.asarray(image.convert("RGB").resize((176, 144)), dtype=np.float32)
    return torch.from_numpy(values).permute(2, 0, 1)[None] / 127.5 - 1


def shown(wide: Tensor, moved: Drift, height: int = 96, width: int = 128) -> Tensor:
    """A window of the wide picture as if an edit had moved it: sampled so that `drift` should answer `moved`."""
    theta = torch.tensor([[1 / moved.zoom, 0.0, 0.0], [0.0, 1 / moved.zoom, 0.0]])
    rows, columns = wide.shape[-2:]
    y, x = torch.meshgrid(torch.arange(height) - (height - 1) / 2, torch.arange(width) - (width - 1) / 2, indexing="ij")
    x, y = (x - moved.x) * theta[0, 0], (y - moved.y) * theta[1, 1]
    grid = torch.stack([x / ((columns - 1) / 2), y / ((rows - 1) / 2)], dim=-1)[None]
    return torch.nn.functional.grid_sample(wide, grid, mode="bicubic", align_corners=True).clamp(-1, 1)


@pytest.mark.parametrize(
    "moved", [Drift(1.5, -0.7), Drift(-3.2, 2.1, 1.015), Drift(0.4, 0.3, 0.98), Drift(0.0, 0.0, 1.03), Drift(-4.0, 0.0)]
)
def test_a_known_drift_is_found_within_a_tenth_of_a_pixel_and_undone(wide: Tensor, moved: Drift) -> None:
    straight, drifted = shown(wide, Drift()), shown(wide, moved)
    found = drift(drifted, straight)
    assert abs(found.x - moved.x) < 0.1
    assert abs(found.y - moved.y) < 0.1
    assert abs(found.zoom - moved.zoom) < 0.002
    inner = (..., slice(8, -8), slice(8, -8))
    before, after = (drifted - straight)[inner].abs().mean(), (undo(drifted, found) - straight)[inner].abs().mean()
    assert after < 0.35 * before


def test_without_drift_the_picture_is_not_touched(wide: Tensor) -> None:
    straight = shown(wide, Drift())
    noise = 0.05 * torch.randn(straight.shape, generator=torch.Generator().manual_seed(0))
    for image in (straight, straight + noise, shown(wide, Drift(0.1, -0.1))):
        found = drift(image, straight)
        assert found == Drift()
        assert undo(image, found) is image


def test_what_moves_or_changes_colour_by_itself_does_not_count(wide: Tensor) -> None:
    straight, drifted = shown(wide, Drift()), shown(wide, Drift(2.0, 1.0))
    straight[..., 30:60, 20:50] = 1.0
    drifted[..., 40:70, 60:90] = -1.0
    found = drift(drifted, straight)
    assert abs(found.x - 2.0) < 0.15
    assert abs(found.y - 1.0) < 0.15


def test_pictures_of_other_things_have_no_drift(wide: Tensor) -> None:
    straight = shown(wide, Drift())
    assert drift(straight.flip(-2), straight) == Drift()
    assert drift(straight.transpose(2, 3)[..., :96, :96], straight[..., :96, :96]) == Drift()
    assert drift(torch.zeros_like(straight), straight) == Drift()
    assert drift(torch.zeros_like(straight), torch.zeros_like(straight)) == Drift()


def lines(column: int) -> Tensor:
    found = torch.zeros(1, 1, 20, 20, dtype=torch.bool)
    found[..., column] = True
    return found


def test_edge_f1_counts_within_two_pixels() -> None:
    assert [edge_f1(lines(8 + away), lines(8)) for away in range(5)] == [1, 1, 1, 0, 0]
    assert edge_f1(lines(8) | lines(15), lines(8)) == pytest.approx(2 * 0.5 / 1.5)
    assert edge_f1(torch.zeros_like(lines(0)), lines(3)) == 0
    assert edge_f1(torch.zeros_like(lines(0)), torch.zeros_like(lines(0))) == 1


def test_canny_finds_an_edge_between_colours() -> None:
    image = torch.full((1, 3, 24, 24), -1.0)
    image[:, 0, :, :12] = 1
    found = canny(image)
    assert found[..., 11:13].any(dim=-1)[..., 2:-2].all()
    assert not found[..., :9].any()
    assert not found[..., 15:].any()


def test_a_row_of_metrics_at_the_target_is_perfect() -> None:
    image = torch.full((1, 3, 32, 32), -1.0)
    image[..., 8:24, 8:24] = 1
    edges = canny(image).float()

    def distance(one: Tensor, other: Tensor) -> Tensor:
        return (one - other).square().mean(dim=(1, 2, 3))

    flow, mask = torch.zeros(1, 2, 32, 32), torch.ones(1, 1, 32, 32)
    row = frame_metrics(
        image, edges=edges, init=image, previous=image, features=lambda x: [x], distance=distance, flow=flow, mask=mask
    )
    assert list(row) == ["edge_loss", "gram_loss", "lpips_to_init", "lpips_to_prev", "edge_f1", "warp_error"]
    assert row["edge_f1"] == 1
    assert row["gram_loss"] == row["lpips_to_init"] == row["lpips_to_prev"] == 0
    assert row["warp_error"] < 1e-6
    bare = frame_metrics(image, edges=edges, init=image, previous=image, features=lambda x: [x], distance=distance)
    assert "warp_error" not in bare


def test_the_warp_error_is_in_shares_of_the_full_range() -> None:
    black, white = torch.full((1, 3, 8, 8), -1.0), torch.ones(1, 3, 8, 8)
    assert warp_error(black, white, torch.zeros(1, 2, 8, 8)) == pytest.approx(1.0)
