"""What moves in a clip: a shape, or a person, between two states."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import NamedTuple, Protocol, Self, TypeVar

import numpy as np

from darkroom.pocket.world.colours import NAMES, Pixels
from darkroom.pocket.world.people import (
    BODIES,
    Labels,
    Person,
    View,
    bodies,
    middle,
    paint,
    recoloured,
    stands_out,
)
from darkroom.pocket.world.scenes import Item, Scene, shows

State = TypeVar("State", Item, View)


class Placed(NamedTuple):
    """Where a rigid body lies: the middle of its own coordinates and their unit in pixels, and their turn."""

    x: float
    y: float
    unit: float
    degrees: float

    def carried(self, points: Pixels, there: Placed) -> Pixels:
        """Points of the body that lies here, [..., 2] in pixels, where they are when it lies `there`."""
        turn = np.deg2rad(there.degrees - self.degrees)
        rotation = np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]])
        local = (points - np.array([self.x, self.y])) * (there.unit / self.unit)
        moved: Pixels = local @ rotation + np.array([there.x, there.y])
        return moved


class Moving(Protocol):
    """One layer of a clip, made of one or more rigid bodies. `share` of its way: 0…1, at an even pace."""

    def paint(self, picture: Pixels, share: float) -> Pixels:
        """`picture` [H, W, 3] with this in front of it."""
        ...

    def light(self, share: float) -> float:
        """The gain of the whole picture."""
        ...

    def placed(self, share: float) -> tuple[Placed, ...]:
        """Where its bodies lie."""
        ...

    def shown(self, share: float, width: int, height: int) -> Labels:
        """[height, width]: which of its bodies is in front, −1 where it covers less than half of the pixel."""
        ...

    def stands_out(self, ground: Pixels) -> bool:
        """Whether it can be told from `ground` where it begins and where it ends."""
        ...

    def repainted(self, rng: np.random.Generator) -> Self:
        """The same movement and outlines in other colours."""
        ...


@dataclass(frozen=True)
class Mover:
    """One shape between two states; between them place, size and turn change evenly."""

    first: Item
    last: Item

    def at(self, share: float) -> Item:
        """The shape at `share` of its way, 0…1."""
        return _between(self.first, self.last, share)

    def paint(self, picture: Pixels, share: float) -> Pixels:
        return Scene(picture, (self.at(share),)).render()

    def light(self, share: float) -> float:
        return 1.0

    def placed(self, share: float) -> tuple[Placed, ...]:
        item = self.at(share)
        return (Placed(item.x, item.y, item.radius, item.degrees),)

    def shown(self, share: float, width: int, height: int) -> Labels:
        empty = Scene(np.zeros((height, width, 3), np.float32), ())
        return np.where(empty.mask(self.at(share)) >= 0.5, 0, -1)

    def stands_out(self, ground: Pixels) -> bool:
        scene = Scene(ground, ())
        return shows(scene, self.first) and shows(scene, self.last)

    def repainted(self, rng: np.random.Generator) -> Mover:
        colour = str(rng.choice(NAMES))
        return Mover(replace(self.first, colour=colour), replace(self.last, colour=colour))


@dataclass(frozen=True)
class Sitter:
    """One person between two views; between them place, size, tilt, turn and light change evenly."""

    person: Person
    first: View
    last: View

    def at(self, share: float) -> View:
        """The view at `share` of the way, 0…1."""
        return _between(self.first, self.last, share)

    def paint(self, picture: Pixels, share: float) -> Pixels:
        # Light falls on the whole picture, when all of it is there.
        return paint(self.person, replace(self.at(share), light=1.0), picture)

    def light(self, share: float) -> float:
        return self.at(share).light

    def placed(self, share: float) -> tuple[Placed, ...]:
        view = self.at(share)
        return tuple(Placed(*middle(view, body), view.size, view.tilt) for body in range(len(BODIES)))

    def shown(self, share: float, width: int, height: int) -> Labels:
        return bodies(self.person, self.at(share), width, height)

    def stands_out(self, ground: Pixels) -> bool:
        return stands_out(self.person, ground)

    def repainted(self, rng: np.random.Generator) -> Sitter:
        return replace(self, person=recoloured(rng, self.person))


def _between(first: State, last: State, share: float) -> State:
    """Every number `share` of the way from `first` to `last`; what is no number as in `first`."""
    ends = {field.name: (getattr(first, field.name), getattr(last, field.name)) for field in fields(first)}
    return replace(first, **{name: a + (b - a) * share for name, (a, b) in ends.items() if not isinstance(a, str)})
