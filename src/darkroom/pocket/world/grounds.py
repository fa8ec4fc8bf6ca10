"""What lies behind the shapes: flat, gradient or textured."""

import cv2
import numpy as np

from darkroom.pocket.world.colours import NAMES, Pixels, rgb

GROUNDS = ("flat", "named", "gradient", "texture")


def ground(rng: np.random.Generator, width: int, height: int) -> Pixels:
    """[height, width, 3] in [0, 1], of a random sort."""
    sort = GROUNDS[int(rng.choice(len(GROUNDS), p=[0.35, 0.25, 0.2, 0.2]))]
    if sort == "named":
        return flat(rgb(NAMES[rng.integers(len(NAMES))]), width, height)
    if sort == "gradient":
        return _gradient(rng, width, height)
    base = flat(_muted(rng), width, height)
    return base if sort == "flat" else _textured(rng, base)


def flat(colour: Pixels, width: int, height: int) -> Pixels:
    """One colour everywhere."""
    return np.broadcast_to(colour, (height, width, 3)).astype(np.float32)


def _muted(rng: np.random.Generator) -> Pixels:
    """A colour that is seldom one of the eight: mostly greyish, any lightness."""
    lightness = rng.uniform(0.15, 0.92)
    return np.clip(lightness + rng.uniform(-0.16, 0.16, 3), 0, 1).astype(np.float32)


def _gradient(rng: np.random.Generator, width: int, height: int) -> Pixels:
    angle = rng.uniform(0, 2 * np.pi)
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    along = (x / width - 0.5) * np.cos(angle) + (y / height - 0.5) * np.sin(angle)
    part = np.clip(along / 1.2 + 0.5, 0, 1)[..., None]
    start = _muted(rng)
    end = np.clip(start + rng.uniform(-0.3, 0.3, 3), 0, 1)
    return np.asarray((1 - part) * start + part * end, dtype=np.float32)


def _textured(rng: np.random.Generator, base: Pixels) -> Pixels:
    """Soft clouds, stripes or checks of low contrast on `base`."""
    height, width = base.shape[:2]
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    sort = rng.integers(3)
    if sort == 0:
        grid = rng.normal(size=(height // 16 + 2, width // 16 + 2)).astype(np.float32)
        pattern = cv2.resize(grid, (width, height), interpolation=cv2.INTER_CUBIC) * 0.5
    elif sort == 1:
        angle, period = rng.uniform(0, np.pi), rng.uniform(12, 28)
        pattern = np.sin((x * np.cos(angle) + y * np.sin(angle)) * 2 * np.pi / period)
    else:
        cell = rng.uniform(10, 22)
        pattern = np.sign(np.sin(x * np.pi / cell) * np.sin(y * np.pi / cell) + 1e-6)
    return np.clip(base + rng.uniform(0.03, 0.09) * pattern[..., None], 0, 1).astype(np.float32)
