"""Losses and warps against closed forms and finite differences."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from darkroom.technique.losses import (
    edge_loss,
    edges_like,
    gram,
    gram_loss,
    motion_like,
    sobel_magnitude,
    style_like,
    temporal_loss,
)
from darkroom.technique.warp import inside, resize_flow, visible, warp


def picture(seed: int = 0, side: int = 12, batch: int = 1) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(batch, 3, side, side, generator=generator, dtype=torch.float64) * 2 - 1


def disc(x: float, side: int = 64, radius: float = 14) -> Tensor:
    """A soft white disc on black at (x, middle): [1, 3, side, side] in -1…1."""
    rows, columns = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    distance = ((columns - x) ** 2 + (rows - side / 2) ** 2).sqrt()
    return ((radius - distance).clamp(-1, 1)).expand(1, 3, side, side).clone()


def outline(image: Tensor) -> Tensor:
    """One-pixel lines, as an edge detector draws them: [1, 1, H, W] of 0 and 1."""
    inner = functional.max_pool2d((image[:, :1] < 0).double(), 3, 1, 1)
    return ((image[:, :1] > 0).double() * inner).clamp(0, 1)


def features(pixels: Tensor) -> list[Tensor]:
    return [pixels, functional.avg_pool2d(pixels.sin(), 2)]


def test_gradients_of_every_loss_are_those_of_finite_differences() -> None:
    edges = torch.rand(1, 1, 12, 12, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    flow = torch.randn(1, 2, 12, 12, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    mask = (picture(5)[:, :1] > 0).double()
    for loss in (edges_like(edges), style_like(picture(1), features), motion_like(picture(2), flow, mask)):
        assert torch.autograd.gradcheck(loss, (picture(6, batch=2).requires_grad_(),), eps=1e-7, atol=1e-5)


def test_losses_are_zero_at_their_target() -> None:
    image = picture()
    assert style_like(image, features)(image) == 0
    assert motion_like(image)(image) == 0
    assert motion_like(image, torch.zeros(1, 2, 12, 12, dtype=torch.float64))(image) < 1e-12


def test_sobel_magnitude_of_a_step_and_a_ramp() -> None:
    step = torch.full((1, 3, 8, 8), -1.0)
    step[..., 4:] = 1
    magnitude = sobel_magnitude(step)
    torch.testing.assert_close(magnitude[0, 0, :, 3:5], torch.ones(8, 2), atol=1e-4, rtol=0)
    torch.testing.assert_close(magnitude[0, 0, :, :3], torch.full((8, 3), 1e-3))
    ramp = torch.linspace(-1, 1, 9).expand(1, 3, 9, 9)
    torch.testing.assert_close(sobel_magnitude(ramp)[0, 0, :, 1:-1], torch.full((9, 7), 0.25), atol=1e-5, rtol=0)


def test_edges_between_colours_of_equal_lightness_count() -> None:
    image = torch.full((1, 3, 8, 8), -1.0)
    image[:, 0, :, :4] = 0.299
    image[:, 2, :, 4:] = 0.114
    assert sobel_magnitude(image).max() > 0.3


def test_edge_loss_pulls_a_shape_to_its_lines_from_several_pixels_away() -> None:
    edges = outline(disc(32.0))
    away = [float(edge_loss(disc(32.0 + offset), edges)) for offset in (0.0, 1.0, 2.0, 4.0, 6.0)]
    assert away == sorted(away)
    assert away[0] < 0.4 * away[-1]


def test_edge_loss_asks_for_lines_and_not_for_contrast() -> None:
    edges = outline(disc(32.0))
    strong, weak = edge_loss(disc(32.0), edges), edge_loss(disc(32.0) * 0.4, edges)
    torch.testing.assert_close(strong, weak, rtol=0.05, atol=0)


def test_a_flat_picture_has_no_edges() -> None:
    assert edge_loss(torch.zeros(1, 3, 32, 32), torch.zeros(1, 1, 32, 32)) == 0


def test_grey_and_rgb_edge_maps_of_any_size_are_one_target() -> None:
    image, edges = disc(30.0), outline(disc(32.0)).float()
    torch.testing.assert_close(edge_loss(image, edges), edge_loss(image, edges.expand(-1, 3, -1, -1)))
    larger = functional.interpolate(edges, scale_factor=2)
    torch.testing.assert_close(edge_loss(image, edges), edge_loss(image, larger), rtol=0.1, atol=0)


def test_gram_matrices_and_their_distance_by_hand() -> None:
    one, other = picture(1), picture(2)
    matrix = torch.einsum("bchw,bdhw->bcd", one, one) / (3 * 12 * 12)
    torch.testing.assert_close(gram(one), matrix)
    expected = (gram(one) - gram(other)).abs().mean(dim=(1, 2))
    torch.testing.assert_close(gram_loss([one], [gram(other)]), expected)
    flipped = one.flip(-1)
    torch.testing.assert_close(gram(flipped), gram(one))


def test_temporal_loss_is_the_mean_over_what_both_frames_show() -> None:
    one, other, mask = picture(1), picture(2), torch.zeros(1, 1, 12, 12, dtype=torch.float64)
    mask[..., 3:5, 2:9] = 1
    expected = (one - other)[..., 3:5, 2:9].abs().mean()
    torch.testing.assert_close(temporal_loss(one, other, mask)[0], expected)
    torch.testing.assert_close(temporal_loss(one, other)[0], (one - other).abs().mean())
    assert temporal_loss(one, other, torch.zeros_like(mask)) == 0


def test_motion_along_its_flow_costs_nothing_at_any_size() -> None:
    before, after = disc(28.0), disc(32.0)
    flow = torch.zeros(1, 2, 64, 64)
    flow[:, 0] = -4
    assert motion_like(before, flow)(after) < 1e-6
    half = functional.avg_pool2d(after, 2)
    assert motion_like(before, flow)(half) < 0.1 * motion_like(before)(half)


@pytest.mark.parametrize(("dx", "dy"), [(0, 0), (3, 0), (-2, 1), (0, -4)])
def test_warping_by_whole_pixels_is_rolling(dx: int, dy: int) -> None:
    image = picture(1, side=16)
    flow = torch.tensor([float(dx), float(dy)], dtype=torch.float64).view(1, 2, 1, 1).expand(1, 2, 16, 16)
    moved, rolled = warp(image, flow), image.roll((-dy, -dx), dims=(2, 3))
    kept = inside(flow).bool().expand_as(image)
    torch.testing.assert_close(moved[kept], rolled[kept])
    assert int(inside(flow).sum()) == (16 - abs(dx)) * (16 - abs(dy))


def test_a_point_is_visible_where_the_flows_undo_each_other() -> None:
    there, back = torch.zeros(1, 2, 16, 16), torch.zeros(1, 2, 16, 16)
    there[:, 0], back[:, 0] = 2, -2
    assert visible(there, back)[..., :14].all()
    assert not visible(there, back)[..., 14:].any()
    back[:, 0, :, 8:] = 3
    assert not visible(there, back)[..., 6:].any()


def test_a_flow_on_a_smaller_grid_is_shorter() -> None:
    flow = torch.ones(1, 2, 8, 12)
    smaller = resize_flow(flow, 4, 3)
    assert smaller.shape == (1, 2, 4, 3)
    assert smaller[0, :, 0, 0].tolist() == [0.25, 0.5]
