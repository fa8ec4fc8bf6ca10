"""The eight colours that have a name in the pocket world."""

import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.float32]

# sRGB in [0, 1]. Far enough apart that the nearest name is unambiguous after a VAE round trip.
COLOURS: dict[str, tuple[float, float, float]] = {
    "red": (0.85, 0.12, 0.12),
    "orange": (0.96, 0.53, 0.08),
    "yellow": (0.95, 0.87, 0.15),
    "green": (0.13, 0.62, 0.22),
    "blue": (0.13, 0.30, 0.85),
    "purple": (0.52, 0.17, 0.68),
    "white": (0.95, 0.95, 0.95),
    "black": (0.06, 0.06, 0.06),
}
NAMES = tuple(COLOURS)


def rgb(name: str) -> Pixels:
    """The colour `name` as three float32 in [0, 1]."""
    return np.array(COLOURS[name], dtype=np.float32)


def nearest(colour: Pixels) -> str:
    """The name whose colour lies nearest to `colour` (three floats in [0, 1], Euclidean in sRGB)."""
    return min(NAMES, key=lambda name: float(np.sum((rgb(name) - colour) ** 2)))
