"""Scenes of the pocket world at any model's size: drawn in pixels of 128 a side, rendered larger."""

from __future__ import annotations

import math
from dataclasses import replace

import cv2
import numpy as np

from darkroom.pocket.world.edit import Mask
from darkroom.pocket.world.scenes import Scene

BASE = 128
"""Pixels per side of the world's own pictures."""


def scale_for(area: int) -> int:
    """How many times larger than the world's own a model of `area` pixels gets its pictures: 1 at 128², 8 at 1024²."""
    return max(1, round(math.sqrt(area) / BASE))


def scaled(scene: Scene, scale: int) -> Scene:
    """The scene `scale` times as large; itself at 1."""
    if scale == 1:
        return scene
    size = (scene.width * scale, scene.height * scale)
    ground = cv2.resize(scene.ground, size, interpolation=cv2.INTER_CUBIC).clip(0, 1)
    items = tuple(
        replace(item, x=item.x * scale, y=item.y * scale, radius=item.radius * scale) for item in scene.items
    )
    return Scene(np.asarray(ground, dtype=np.float32), items)


def largest(mask: Mask) -> Mask:
    """The largest connected part of a mask; the mask itself where it is empty."""
    count, labels, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8))
    if count < 2:
        return mask
    return np.asarray(labels == 1 + int(stats[1:, cv2.CC_STAT_AREA].argmax()))
