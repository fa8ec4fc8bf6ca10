"""Numbers as colours on a picture: where a model looked, and where two pictures differ."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image


def heat_map(picture: Image.Image, weights: NDArray[np.float32], opacity: float = 0.6) -> Image.Image:
    """The picture in grey under a map of `weights` [rows, columns] in 0…1: black is 0, yellow is 1 (inferno).

    Cells are drawn as cells, not blurred into each other, since a model gives one number for each.
    """
    levels = np.round(np.clip(weights, 0, 1) * 255).astype(np.uint8)
    large = cv2.resize(levels, picture.size, interpolation=cv2.INTER_NEAREST)
    colours = cv2.cvtColor(cv2.applyColorMap(large, cv2.COLORMAP_INFERNO), cv2.COLOR_BGR2RGB)
    return Image.blend(picture.convert("L").convert("RGB"), Image.fromarray(colours), opacity)


def difference(before: Image.Image, after: Image.Image, gain: float = 4.0) -> Image.Image:
    """|after − before| per channel times `gain`, on black; both of one size. Equal pictures give black."""
    gap = np.abs(np.asarray(after, dtype=np.int16) - np.asarray(before, dtype=np.int16))
    return Image.fromarray(np.clip(gap * gain, 0, 255).astype(np.uint8))
