"""The edit that video asks for: the next frame, from an edge map, the initial frame and the previous frame."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial

import cv2
import numpy as np

from darkroom.pocket.world.clips import Clip, Mask, draw_clip, draw_people_clip
from darkroom.pocket.world.colours import Pixels
from darkroom.pocket.world.edges import edge_map
from darkroom.pocket.world.grounds import ground

FOLLOW = (
    "draw the next frame following the edges",
    "draw the picture following the edges",
    "follow the edges",
    "make the next frame from the edges",
)
_FRAMES = 8


@dataclass(frozen=True)
class Follow:
    """One frame to draw. `sources`: edge map, initial frame, previous frame; pictures [H, W, 3] in [0, 1].

    `mask` [H, W]: where the true previous frame and the target differ.
    """

    instruction: str
    sources: tuple[Pixels, Pixels, Pixels]
    target: Pixels
    mask: Mask
    kind: str = "follow"


def draw_follow(rng: np.random.Generator, width: int = 128, height: int = 128, people: bool = False) -> Follow:
    """A random frame of a random clip of shapes, or of one with a person.

    The edges come from a clip with the same movements and, in half of the cases, other colours and another ground:
    places come from the edges, looks from the initial frame.
    """
    # Edges say nothing of the light.
    draw = partial(draw_people_clip, steady_light=True) if people else draw_clip
    clip = draw(rng, _FRAMES, width, height)
    seen = _repainted(rng, clip) if rng.random() < 0.5 else clip
    t = int(rng.integers(1, _FRAMES))
    before = max(0, t - int(rng.choice([1, 2, 3, 7], p=[0.5, 0.2, 0.15, 0.15])))
    target, previous = clip.frame(t), clip.frame(before)
    mask = cv2.dilate((np.abs(target - previous).max(axis=-1) > 0.02).astype(np.uint8), np.ones((3, 3), np.uint8))
    edges = edge_map(seen.frame(t), thickness=int(rng.integers(1, 3)))
    drifted = _drifted(rng, previous) if rng.random() < 0.6 else previous
    text = FOLLOW[rng.integers(len(FOLLOW))]
    return Follow(text, (edges, clip.frame(0), drifted), target, mask.astype(np.bool_))


def _repainted(rng: np.random.Generator, clip: Clip) -> Clip:
    """The same movements in other colours on another ground, where all of them still show."""
    height, width = clip.ground.shape[:2]
    for _ in range(8):
        movers = tuple(mover.repainted(rng) for mover in clip.movers)
        other = replace(clip, ground=ground(rng, width, height), movers=movers)
        if other.stands_out():
            return other
    return clip


def _drifted(rng: np.random.Generator, image: Pixels) -> Pixels:
    """As a frame that the model made: a little soft, a little noisy, a little off in colour and place."""
    if rng.random() < 0.5:
        image = np.asarray(cv2.GaussianBlur(image, (0, 0), float(rng.uniform(0.4, 1.2))), dtype=np.float32)
    if rng.random() < 0.3:
        shift = rng.uniform(-1.2, 1.2, 2)
        moved = np.array([[1, 0, shift[0]], [0, 1, shift[1]]], dtype=np.float32)
        size = (image.shape[1], image.shape[0])
        drifted = cv2.warpAffine(image, moved, size, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        image = np.asarray(drifted, dtype=np.float32)
    noise = rng.normal(0, rng.uniform(0, 0.03), image.shape) + rng.normal(0, 0.015, 3)
    return np.asarray(np.clip(image + noise, 0, 1), dtype=np.float32)
