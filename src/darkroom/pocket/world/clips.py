"""Clips: the shapes of a scene move, turn, grow and pass in front of each other; flow and visibility are exact."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from darkroom.pocket.world.colours import Pixels
from darkroom.pocket.world.grounds import ground
from darkroom.pocket.world.scenes import Item, Scene, place
from darkroom.pocket.world.shapes import SHAPES

Mask = np.ndarray[tuple[int, ...], np.dtype[np.bool_]]

_TRAVEL = (10.0, 60.0)
_TURN = 40.0
_GROWTH = (0.8, 1.25)
# A shape's path keeps this many radii away from the border, so that little of it leaves the picture.
_INSIDE = 0.9


@dataclass(frozen=True)
class Mover:
    """One shape between two states; between them place, size and turn change evenly."""

    first: Item
    last: Item

    def at(self, share: float) -> Item:
        """The shape at `share` of its way, 0…1."""

        def between(one: float, other: float) -> float:
            return one + (other - one) * share

        return replace(
            self.first,
            x=between(self.first.x, self.last.x),
            y=between(self.first.y, self.last.y),
            radius=between(self.first.radius, self.last.radius),
            degrees=between(self.first.degrees, self.last.degrees),
        )


@dataclass(frozen=True)
class Clip:
    """`frames` pictures of one ground, [height, width, 3] in [0, 1]; later movers hide earlier ones."""

    ground: Pixels
    movers: tuple[Mover, ...]
    frames: int

    def scene(self, t: int) -> Scene:
        """What is to be seen at frame `t`, 0 … frames − 1."""
        share = t / (self.frames - 1) if self.frames > 1 else 0.0
        return Scene(self.ground, tuple(mover.at(share) for mover in self.movers))

    def frame(self, t: int) -> Pixels:
        """[height, width, 3] in [0, 1]."""
        return self.scene(t).render()

    def owners(self, t: int) -> np.ndarray[tuple[int, ...], np.dtype[np.int64]]:
        """[height, width]: the number of the mover in front, −1 for the ground."""
        scene = self.scene(t)
        owners = np.full((scene.height, scene.width), -1)
        for number, item in enumerate(scene.items):
            owners[scene.mask(item) >= 0.5] = number
        return owners

    def flow(self, t: int) -> Pixels:
        """[height, width, 2], x and y in pixels: from where each pixel of frame `t` ≥ 1 was in frame t − 1, minus here.

        `frame(t)[y, x]` is `frame(t − 1)[y + flow[..., 1], x + flow[..., 0]]` wherever `visible(t)`.
        """
        owners, now, before = self.owners(t), self.scene(t), self.scene(t - 1)
        grid = np.stack(np.meshgrid(np.arange(now.width) + 0.5, np.arange(now.height) + 0.5), axis=-1)
        flow = np.zeros_like(grid)
        for number, (here, there) in enumerate(zip(now.items, before.items, strict=True)):
            own = owners == number
            flow[own] = _carried(grid[own], here, there) - grid[own]
        return flow.astype(np.float32)

    def visible(self, t: int) -> Mask:
        """[height, width]: whether what each pixel of frame `t` ≥ 1 shows could be seen in frame t − 1 too."""
        owners, before = self.owners(t), self.owners(t - 1)
        height, width = owners.shape
        rows, columns = np.indices(owners.shape)
        flow = self.flow(t)
        x = np.floor(columns + 0.5 + flow[..., 0]).astype(int)
        y = np.floor(rows + 0.5 + flow[..., 1]).astype(int)
        inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
        seen = before[y.clip(0, height - 1), x.clip(0, width - 1)] == owners
        visible: Mask = inside & seen
        return visible


def draw_clip(rng: np.random.Generator, frames: int, width: int = 128, height: int = 128) -> Clip:
    """A random clip with one to three shapes."""
    scene = Scene(ground(rng, width, height), ())
    for shape in rng.permutation(SHAPES)[: rng.choice([1, 2, 3], p=[0.35, 0.4, 0.25])]:
        item = place(rng, scene, str(shape))
        if item is not None:
            scene = replace(scene, items=(*scene.items, item))
    if not scene.items:
        return draw_clip(rng, frames, width, height)
    return Clip(scene.ground, tuple(Mover(item, _end(rng, scene, item)) for item in scene.items), frames)


def _end(rng: np.random.Generator, scene: Scene, item: Item) -> Item:
    """Somewhere inside the picture; one shape in five stays where it is."""
    if rng.random() < 0.2:
        return item
    angle, travel = rng.uniform(0, 2 * np.pi), rng.uniform(*_TRAVEL)
    radius = float(np.clip(item.radius * rng.uniform(*_GROWTH), 11, 28)) if rng.random() < 0.5 else item.radius
    margin = _INSIDE * radius
    return replace(
        item,
        x=float(np.clip(item.x + travel * np.cos(angle), margin, scene.width - margin)),
        y=float(np.clip(item.y + travel * np.sin(angle), margin, scene.height - margin)),
        radius=radius,
        degrees=item.degrees + float(rng.uniform(-_TURN, _TURN) if rng.random() < 0.5 else 0.0),
    )


def _carried(points: Pixels, here: Item, there: Item) -> Pixels:
    """Points of the shape `here` [..., 2], where they are on the same shape `there`."""
    turn = np.deg2rad(there.degrees - here.degrees)
    rotation = np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]])
    local = (points - np.array([here.x, here.y])) * (there.radius / here.radius)
    carried: Pixels = local @ rotation + np.array([there.x, there.y])
    return carried
