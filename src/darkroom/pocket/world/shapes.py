"""Six shapes as coverage masks: how much of each pixel a shape fills."""

import cv2
import numpy as np

from darkroom.pocket.world.colours import Pixels

SHAPES = ("circle", "square", "triangle", "star", "ring", "cross")
# However they are turned, they look the same.
ROUND = ("circle", "ring")

# Drawn this many times larger and averaged down: smooth edges, exact to 1/16 of a pixel's area.
_SUPERSAMPLING = 4
# The triangle's lower corners lie farthest out, in radii.
_REACH = 1.25


def coverage(shape: str, x: float, y: float, radius: float, degrees: float, width: int, height: int) -> Pixels:
    """[height, width] in [0, 1]: `shape` centred on (x, y) pixels, inside a circle of about `radius` pixels."""
    covered = np.zeros((height, width), np.float32)
    reach = _REACH * radius + 1
    left, top = max(int(x - reach), 0), max(int(y - reach), 0)
    right, bottom = min(int(x + reach) + 1, width), min(int(y + reach) + 1, height)
    if left < right and top < bottom:
        covered[top:bottom, left:right] = _drawn(shape, x - left, y - top, radius, degrees, right - left, bottom - top)
    return covered


def _drawn(shape: str, x: float, y: float, radius: float, degrees: float, width: int, height: int) -> Pixels:
    scale = _SUPERSAMPLING
    canvas = np.zeros((height * scale, width * scale), np.uint8)
    centre = np.array([x, y]) * scale
    if shape in ("circle", "ring"):
        _disc(canvas, centre, 0.92 * radius * scale, 255)
        if shape == "ring":
            _disc(canvas, centre, 0.48 * radius * scale, 0)
    else:
        points = _OUTLINES[shape] @ _rotation(degrees).T * radius * scale + centre
        # fillPoly counts in 1/16 pixel here, which keeps small shifts of a shape.
        cv2.fillPoly(canvas, [np.round(points * 16).astype(np.int32)], 255, shift=4)
    small = cv2.resize(canvas, (width, height), interpolation=cv2.INTER_AREA)
    return np.asarray(small, dtype=np.float32) / np.float32(255)


def _disc(canvas: np.ndarray[tuple[int, ...], np.dtype[np.uint8]], centre: Pixels, radius: float, value: int) -> None:
    x, y = (round(float(part) * 16) for part in centre)
    cv2.circle(canvas, (x, y), round(radius * 16), value, -1, shift=4)


def _rotation(degrees: float) -> Pixels:
    angle = np.deg2rad(degrees)
    return np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]], dtype=np.float32)


def _star() -> Pixels:
    angles = np.deg2rad(np.arange(10) * 36 - 90)
    radii = np.where(np.arange(10) % 2 == 0, 1.08, 0.46)
    return np.stack([radii * np.cos(angles), radii * np.sin(angles)], axis=1).astype(np.float32)


def _cross() -> Pixels:
    arm, half = 0.96, 0.32
    quarter = np.array([[half, -arm], [half, -half], [arm, -half]], dtype=np.float32)
    return np.concatenate([quarter @ _rotation(90.0 * turn).T for turn in range(4)])


_OUTLINES = {
    "square": np.array([[-0.8, -0.8], [0.8, -0.8], [0.8, 0.8], [-0.8, 0.8]], dtype=np.float32),
    "triangle": np.array([[0, -1.0], [0.98, 0.76], [-0.98, 0.76]], dtype=np.float32),
    "star": _star(),
    "cross": _cross(),
}
