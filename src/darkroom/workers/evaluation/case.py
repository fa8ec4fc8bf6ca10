"""A case of an evaluation: what an editor is given, and how what it makes of it is judged, from pixels alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import cv2
import numpy as np
from PIL import Image

from darkroom.technique.likeness import Pixels

Scores = Mapping[str, float]
Judge = Callable[[Sequence[Pixels]], Scores]
"""The results of a case's shots, each of its target's size -> a value for each of the suite's rulers."""


@dataclass(frozen=True)
class Shot:
    """One edit. Pictures are [H, W, 3] in 0…1; `sight` is what the vision encoders see where that is not `source`."""

    source: Pixels
    prompt: str
    target: Pixels
    sight: Pixels | None = None

    @property
    def seen(self) -> Pixels:
        """What the vision encoders are shown."""
        return self.source if self.sight is None else self.sight


@dataclass(frozen=True)
class Case:
    """Shots that are judged together: one, or several pictures of one subject. about: what is special, for people."""

    shots: tuple[Shot, ...]
    judge: Judge
    about: str = ""


@dataclass(frozen=True)
class Ruler:
    """One measure of a suite. unit: for people, empty for a share of 0…1."""

    name: str
    what: str
    better: Literal["higher", "lower"] = "higher"
    unit: str = ""

    @property
    def sign(self) -> int:
        """1 where more is better, else −1."""
        return 1 if self.better == "higher" else -1


@dataclass(frozen=True)
class Suite:
    """Cases with the same rulers, the first of which ranks them. ceiling: what the best possible scores come from."""

    name: str
    title: str
    rulers: tuple[Ruler, ...]
    cases: tuple[Case, ...]
    ceiling: Literal["render", "round trip"] = "render"
    notes: tuple[str, ...] = ()


def to_picture(pixels: Pixels) -> Image.Image:
    """8-bit RGB."""
    return Image.fromarray(np.round(pixels * 255).astype(np.uint8))


def sized(pixels: Pixels, like: Pixels) -> Pixels:
    """At the size of another picture; itself where it has it."""
    height, width = like.shape[:2]
    if pixels.shape[:2] == (height, width):
        return pixels
    resized = cv2.resize(pixels, (width, height), interpolation=cv2.INTER_AREA)
    return np.clip(resized, 0, 1).astype(np.float32)
