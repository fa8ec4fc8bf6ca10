"""The small shift and zoom that an edit adds to a picture, found against a reference and undone.

Qwen-Image-Edit-2509 moves and scales what it edits by a few pixels; in a chain of frames, each made from the one
before, that adds up.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

LEAST_DRIFT = 0.25
"""Pixels at the corners below which a picture is left alone: resampling costs more sharpness than it would win."""

MOST_DRIFT = 0.06
"""Share of the longer side, at the corners, beyond which an estimate is no drift but a mistake."""

_LEVELS = (4, 2, 1)
_ITERATIONS = 12
_LEAST_GAIN = 0.98
_LEAST_LIKENESS = 0.6


@dataclass(frozen=True)
class Drift:
    """The picture shows at c + zoom * (p - c) + (x, y) what belongs at p; c is the centre, x and y in pixels."""

    x: float = 0.0
    y: float = 0.0
    zoom: float = 1.0

    def at_corner(self, height: int, width: int) -> float:
        """The longest displacement, in pixels: that of the corner which shift and zoom move the same way."""
        across = abs(self.x) + abs(self.zoom - 1) * (width - 1) / 2
        down = abs(self.y) + abs(self.zoom - 1) * (height - 1) / 2
        return float((across**2 + down**2) ** 0.5)


@torch.no_grad()
def drift(image: Tensor, reference: Tensor, least: float = LEAST_DRIFT) -> Drift:
    """How `image` is shifted and zoomed against `reference`, both [1, C, H, W] of the same content and any scale.

    Gauss-Newton on the squared difference from coarse to fine, with Tukey's weights, so that what moves or changes by
    itself does not count (Baker and Matthews, "Lucas-Kanade 20 years on", 2004). No drift where it stays under `least`
    pixels at the corners, where it is larger than an edit's, or where undoing it does not make one picture of the two.
    """
    height, width = image.shape[-2:]
    state = torch.zeros(3, dtype=torch.float64, device=image.device)
    for level in _LEVELS:
        if min(height, width) // level < 16:
            continue
        state = _fit(_blurred(image, level), _blurred(reference, level), state, level)
    found = Drift(float(state[0]), float(state[1]), 1 + float(state[2]))
    corner = found.at_corner(height, width)
    if corner < least or corner > MOST_DRIFT * max(height, width):
        return Drift()
    target, straight = _blurred(reference, 1), _blurred(_sampled(image, found), 1)
    nearer = _robust_error(straight, target) < _LEAST_GAIN * _robust_error(_blurred(image, 1), target)
    return found if nearer and _likeness(straight, target) > _LEAST_LIKENESS else Drift()


def undo(image: Tensor, found: Drift) -> Tensor:
    """`image` [B, C, H, W] as it would be without the drift, by bicubic sampling; itself where there is none."""
    return image if found == Drift() else _sampled(image, found)


def _fit(image: Tensor, reference: Tensor, state: Tensor, level: int) -> Tensor:
    """(x, y, zoom - 1) in pixels of the full size, improved at one level."""
    offsets = _offsets(image)
    for _ in range(_ITERATIONS):
        now = Drift(float(state[0]) / level, float(state[1]) / level, 1 + float(state[2]))
        moved = _sampled(image, now, "bilinear")
        residual = (moved - reference).flatten()
        dy, dx = torch.gradient(moved, dim=(2, 3))
        jacobian = torch.stack([dx, dy, dx * offsets[0] + dy * offsets[1]], dim=-1).reshape(-1, 3)
        weighted = jacobian * _tukey(residual)[:, None]
        normal = weighted.T @ jacobian
        # A picture without structure says nothing of its place: damped, it stays where it is.
        damping = torch.eye(3).to(normal) * (1e-6 * normal.trace() + 1e-12)
        step = torch.linalg.solve(normal + damping, -(weighted.T @ residual))
        state = state + step * torch.tensor([level, level, 1.0]).to(step)
    return state


def _tukey(residual: Tensor) -> Tensor:
    """Weights 0…1: none for what lies beyond 4.7 robust standard deviations."""
    spread = 1.4826 * residual.abs().median() + 1e-3
    return (1 - (residual / (4.685 * spread)).square()).clamp(min=0).square()


def _robust_error(image: Tensor, reference: Tensor) -> float:
    return float((image - reference).abs().clamp(max=0.25).mean())


def _likeness(image: Tensor, reference: Tensor) -> float:
    """The correlation of two pictures, -1…1."""
    one, other = image.flatten() - image.mean(), reference.flatten() - reference.mean()
    return float(one @ other / (one.norm() * other.norm()).clamp(min=1e-12))


def _sampled(image: Tensor, found: Drift, mode: str = "bicubic") -> Tensor:
    height, width = image.shape[-2:]
    x, y = _offsets(image)
    # In grid_sample's units, -1 and 1 are the outermost pixels' centres, and the centre is 0.
    across = (found.zoom * x + found.x) / max((width - 1) / 2, 1)
    down = (found.zoom * y + found.y) / max((height - 1) / 2, 1)
    grid = torch.stack([across, down], dim=-1).expand(len(image), -1, -1, -1)
    return functional.grid_sample(image, grid.to(image), mode=mode, padding_mode="border", align_corners=True)


def _offsets(image: Tensor) -> tuple[Tensor, Tensor]:
    """[H, W] each: x and y of every pixel from the centre."""
    height, width = image.shape[-2:]
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    return (x - (width - 1) / 2).to(image), (y - (height - 1) / 2).to(image)


def _blurred(image: Tensor, level: int) -> Tensor:
    """In float64, shrunk by `level` and softened, so that slopes reach as far as the drift that is sought."""
    small = functional.avg_pool2d(image.double(), level) if level > 1 else image.double()
    line = torch.tensor([1.0, 4.0, 6.0, 4.0, 1.0]).to(small) / 16
    kernel = torch.outer(line, line).expand(small.shape[1], 1, 5, 5)
    return functional.conv2d(functional.pad(small, (2, 2, 2, 2), mode="replicate"), kernel, groups=small.shape[1])
