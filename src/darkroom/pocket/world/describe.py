"""The world in words: what a picture shows, and where."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from darkroom.pocket.world.colours import NAMES, Pixels, rgb
from darkroom.pocket.world.grounds import flat
from darkroom.pocket.world.marks import draw_dot, enlarged
from darkroom.pocket.world.people import Person, draw_person, draw_view, stands_out
from darkroom.pocket.world.portraits import Portrait
from darkroom.pocket.world.scenes import Item, Scene, draw_scene

QUESTION = "Describe the picture"

_ROWS = ("top", "middle", "bottom")
_COLUMNS = ("left", "center", "right")


@dataclass(frozen=True)
class Described:
    """A picture [H, W, 3] in [0, 1] in words; `items` and small `dots` of a scene, or the `person` of a portrait."""

    picture: Pixels
    text: str
    items: tuple[Item, ...] | None = None
    dots: tuple[Item, ...] = ()
    person: Person | None = None


def draw_described(rng: np.random.Generator, side: int = 256) -> Described:
    """A scene, with up to four small dots in it, or a portrait; square, `side` pixels long."""
    return _scene(rng, side) if rng.random() < 0.7 else _portrait(rng, side)


def describe(items: Sequence[Item], dots: Sequence[Item], side: int) -> str:
    """The shapes from top to bottom and left to right, then the dots."""
    told = [
        f"a {item.colour} {name or item.shape} at the {place_name(item, side)}"
        for group, name in ((items, ""), (dots, "dot"))
        for item in sorted(group, key=lambda item: (_third(item.y, side), _third(item.x, side)))
    ]
    return ", ".join(told).replace("a orange", "an orange")


def place_name(item: Item, side: int) -> str:
    """The ninth of the picture that the centre lies in, such as "top left"."""
    return f"{_ROWS[_third(item.y, side)]} {_COLUMNS[_third(item.x, side)]}"


def _third(along: float, side: int) -> int:
    return min(2, int(3 * along / side))


def _scene(rng: np.random.Generator, side: int) -> Described:
    # Drawn at half the size, as the world's other pictures are: dots are small against its shapes.
    scene = draw_scene(rng, side // 2, side // 2)
    wanted = int(rng.choice(5, p=[0.2, 0.35, 0.15, 0.15, 0.15]))
    dots = tuple(dot for _ in range(wanted) if (dot := draw_dot(rng, scene)) is not None)
    text = describe(scene.items, dots, side // 2)
    large = enlarged(Scene(scene.ground, (*scene.items, *dots)))
    count = len(scene.items)
    return Described(large.render(), text, large.items[:count], large.items[count:])


def _portrait(rng: np.random.Generator, side: int) -> Described:
    while True:
        person = draw_person(rng)
        colour = str(rng.choice(NAMES))
        behind = flat(rgb(colour), side, side)
        if stands_out(person, behind):
            picture = Portrait(person, draw_view(rng, side, side), behind).render()
            text = f"{person.caption()} in front of a {colour} background".replace(" a orange", " an orange")
            return Described(picture, text, person=person)
