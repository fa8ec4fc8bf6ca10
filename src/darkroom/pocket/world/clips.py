"""Clips: shapes and people move, turn, grow and pass in front of each other; flow and visibility are exact."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import chain, islice

import numpy as np

from darkroom.pocket.world.colours import NAMES, Pixels, rgb
from darkroom.pocket.world.grounds import ground
from darkroom.pocket.world.movers import Mover, Moving, Placed, Sitter
from darkroom.pocket.world.people import Labels, can_be_told_apart, draw_person, draw_view
from darkroom.pocket.world.scenes import Item, Scene, place
from darkroom.pocket.world.shapes import SHAPES

Mask = np.ndarray[tuple[int, ...], np.dtype[np.bool_]]

_TRAVEL = (10.0, 60.0)
_TURN = 40.0
_GROWTH = (0.8, 1.25)
# A shape's path keeps this many radii away from the border, so that little of it leaves the picture.
_INSIDE = 0.9
# Radii of shapes that pass a head, in pixels of a picture of 128.
_PASSING = (10.0, 18.0)


@dataclass(frozen=True)
class Clip:
    """`frames` pictures of one ground, [height, width, 3] in [0, 1]; later movers hide earlier ones."""

    ground: Pixels
    movers: tuple[Moving, ...]
    frames: int

    def frame(self, t: int) -> Pixels:
        """[height, width, 3] in [0, 1] at `t`, 0 … frames − 1."""
        picture = self.ground.astype(np.float32)
        for mover in self.movers:
            picture = mover.paint(picture, self._share(t))
        gain = self.light(t)
        return picture if gain == 1 else np.asarray(np.clip(picture * gain, 0, 1), dtype=np.float32)

    def light(self, t: int) -> float:
        """The gain of the whole frame."""
        return float(np.prod([mover.light(self._share(t)) for mover in self.movers]))

    def owners(self, t: int) -> Labels:
        """[height, width]: the number of the rigid body in front, counted over all movers; −1 for the ground."""
        height, width = self.ground.shape[:2]
        owners, counted = np.full((height, width), -1), 0
        for mover in self.movers:
            shown = mover.shown(self._share(t), width, height)
            owners = np.where(shown >= 0, counted + shown, owners)
            counted += len(mover.placed(0.0))
        return owners

    def flow(self, t: int) -> Pixels:
        """[height, width, 2], x and y in pixels: from where each pixel of frame `t` ≥ 1 was in frame t − 1, minus here.

        `frame(t)[y, x] / light(t)` is `frame(t − 1)[y + flow[..., 1], x + flow[..., 0]] / light(t − 1)` wherever
        `visible(t)`.
        """
        owners, (height, width) = self.owners(t), self.ground.shape[:2]
        grid = np.stack(np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5), axis=-1)
        flow = np.zeros_like(grid)
        for number, (here, there) in enumerate(zip(self._placed(t), self._placed(t - 1), strict=True)):
            own = owners == number
            flow[own] = here.carried(grid[own], there) - grid[own]
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

    def stands_out(self) -> bool:
        """Whether all that moves can be told from the ground, and shapes from a person whom they may pass."""
        shapes = [mover for mover in self.movers if isinstance(mover, Mover)]
        people = [mover.person for mover in self.movers if isinstance(mover, Sitter)]
        passing = all(can_be_told_apart(person, rgb(shape.first.colour)) for person in people for shape in shapes)
        return passing and all(mover.stands_out(self.ground) for mover in self.movers)

    def _share(self, t: int) -> float:
        return t / (self.frames - 1) if self.frames > 1 else 0.0

    def _placed(self, t: int) -> list[Placed]:
        return list(chain.from_iterable(mover.placed(self._share(t)) for mover in self.movers))


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


def draw_people_clip(
    rng: np.random.Generator, frames: int, width: int = 128, height: int = 128, steady_light: bool = False
) -> Clip:
    """A random clip with a person, and with none to two shapes that pass behind or in front of the head."""
    while True:
        sitter = _sitter(rng, width, height, steady_light)
        movers: list[Moving] = [sitter]
        passing = zip(rng.permutation(SHAPES), rng.permutation(NAMES), strict=False)
        for shape, colour in islice(passing, rng.choice([0, 1, 2], p=[0.35, 0.45, 0.2])):
            mover = _passing(rng, sitter, str(shape), str(colour), width, height)
            movers.insert(int(rng.integers(len(movers) + 1)), mover)
        clip = Clip(ground(rng, width, height), tuple(movers), frames)
        if clip.stands_out():
            return clip


def _sitter(rng: np.random.Generator, width: int, height: int, steady_light: bool) -> Sitter:
    """Anyone, between two views; at most one of place, tilt and turn stays."""
    first = last = draw_view(rng, width, height)
    least = _TRAVEL[0] * min(width, height) / 128
    while np.hypot(last.x - first.x, last.y - first.y) < least:
        last = draw_view(rng, width, height)
    stays = rng.choice(["place", "tilt", "turn", "nothing"], p=[0.15, 0.2, 0.2, 0.45])
    if stays == "place":
        last = replace(last, x=first.x, y=first.y, size=first.size)
    elif stays != "nothing":
        last = replace(last, **{str(stays): getattr(first, stays)})
    if steady_light or rng.random() < 0.5:
        last = replace(last, light=first.light)
    return Sitter(draw_person(rng), first, last)


def _passing(rng: np.random.Generator, sitter: Sitter, shape: str, colour: str, width: int, height: int) -> Mover:
    """A shape whose way leads over the head or close by."""
    head, radius = sitter.at(0.5), float(rng.uniform(*_PASSING)) * min(width, height) / 128
    angle, half = rng.uniform(0, 2 * np.pi), rng.uniform(*_TRAVEL) / 2
    x, y = np.array([head.x, head.y]) + head.size * rng.uniform(-0.8, 0.8, 2)
    degrees, turn = float(rng.uniform(-8, 8)), float(rng.uniform(-_TURN, _TURN))
    step = half * np.array([np.cos(angle), np.sin(angle)])
    first, last = (
        Item(shape, colour, *_inside(x + way * step[0], y + way * step[1], radius, width, height), radius, degrees)
        for way in (-1, 1)
    )
    return Mover(first, replace(last, degrees=degrees + turn))


def _inside(x: float, y: float, radius: float, width: int, height: int) -> tuple[float, float]:
    margin = _INSIDE * radius
    return float(np.clip(x, margin, width - margin)), float(np.clip(y, margin, height - margin))


def _end(rng: np.random.Generator, scene: Scene, item: Item) -> Item:
    """Somewhere inside the picture; one shape in five stays where it is."""
    if rng.random() < 0.2:
        return item
    angle, travel = rng.uniform(0, 2 * np.pi), rng.uniform(*_TRAVEL)
    radius = float(np.clip(item.radius * rng.uniform(*_GROWTH), 11, 28)) if rng.random() < 0.5 else item.radius
    x, y = item.x + travel * np.cos(angle), item.y + travel * np.sin(angle)
    x, y = _inside(x, y, radius, scene.width, scene.height)
    return replace(
        item,
        x=x,
        y=y,
        radius=radius,
        degrees=item.degrees + float(rng.uniform(-_TURN, _TURN) if rng.random() < 0.5 else 0.0),
    )
