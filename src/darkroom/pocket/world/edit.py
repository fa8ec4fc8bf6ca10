"""One example of an edit."""

from dataclasses import dataclass, field, replace

import cv2
import numpy as np
from numpy.typing import NDArray

from darkroom.pocket.world.colours import Pixels
from darkroom.pocket.world.lettering import Lettering
from darkroom.pocket.world.scenes import Item, Scene

Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Edit:
    """One example. Pictures are [H, W, 3] in [0, 1]; `mask` is [H, W], True where source and target may differ.

    `before` and `after` are the edited shape in either picture, where there is one; `colour` the colour asked for;
    `lettering` the word asked for.
    `pictures`: all that the model is given, where that is more than `source`, in its order. `sight`: what the vision
    encoders are shown, [2H, 2W, 3], where that is more than `source`, which the VAE then gets alone; `sight_large`: the
    same at [H, W, 3] with its mark drawn so large that a coarse sight reads it too.
    """

    kind: str
    instruction: str
    source: Pixels
    target: Pixels
    mask: Mask
    before: Item | None = None
    after: Item | None = None
    colour: str | None = None
    scene: Scene | None = field(default=None, repr=False)
    pictures: tuple[Pixels, ...] = ()
    sight: Pixels | None = None
    sight_large: Pixels | None = None
    lettering: Lettering | None = None

    @property
    def sources(self) -> tuple[Pixels, ...]:
        """The pictures that the model is given, in its order: one to three."""
        return self.pictures or (self.source,)


def swapped(kind: str, text: str, scene: Scene, before: Item | None, after: Item | None) -> Edit:
    """The edit that puts `after` in the place of `before`."""
    items = tuple(item for item in scene.items if item != before)
    target = replace(scene, items=items if after is None else (*items, after))
    covered = [scene.mask(item) > 0 for item in (before, after) if item is not None]
    # The shapes' own pixels and one beyond, for what rounds there.
    mask = grown(np.any(covered, axis=0))
    colour = after.colour if after is not None else None
    return Edit(kind, text, scene.render(), target.render(), mask, before, after, colour, target)


def grown(mask: Mask, pixels: int = 1) -> Mask:
    """`mask` and all within `pixels` of it, in rows, columns and diagonals."""
    side = 2 * pixels + 1
    return cv2.dilate(mask.astype(np.uint8), np.ones((side, side), np.uint8)).astype(np.bool_)


def differing(one: Pixels, other: Pixels) -> Mask:
    """[H, W]: where two pictures differ, and one pixel beyond, for what rounds there."""
    return grown(np.abs(one - other).max(axis=-1) > 1e-6)
