"""A scene: a ground and up to four shapes, each of another sort, none overlapping."""

import math
from dataclasses import dataclass, replace

import numpy as np

from darkroom.pocket.world.colours import COLOURS, NAMES, Pixels, rgb
from darkroom.pocket.world.grounds import ground
from darkroom.pocket.world.shapes import SHAPES, coverage

# Room between a shape and its neighbours or the border, in pixels.
_MARGIN = 3.0
# A shape whose colour is nearer to what is behind it than this would be hard to see.
_CONTRAST = 0.42
_MOST_SHAPES = 4
# How far "move" moves, in pixels: two tokens of the transformer.
MOVE_PIXELS = 32
# Between the points among which `place_near_middle` chooses, in pixels: two tokens of the transformer.
_STEP = 32
# A point is free for a shape where one so much larger fits, and taken where not even one so much smaller does.
_AMPLE, _SCANT = 1.1, 0.75


@dataclass(frozen=True)
class Item:
    """One shape: its centre and radius in pixels, its turn in degrees."""

    shape: str
    colour: str
    x: float
    y: float
    radius: float
    degrees: float = 0.0


@dataclass(frozen=True)
class Scene:
    """A ground of [height, width, 3] in [0, 1] and the shapes on it."""

    ground: Pixels
    items: tuple[Item, ...]

    @property
    def width(self) -> int:
        return int(self.ground.shape[1])

    @property
    def height(self) -> int:
        return int(self.ground.shape[0])

    def mask(self, item: Item) -> Pixels:
        """[height, width] in [0, 1]: how much of each pixel `item` covers."""
        return coverage(item.shape, item.x, item.y, item.radius, item.degrees, self.width, self.height)

    def render(self) -> Pixels:
        """[height, width, 3] in [0, 1]."""
        image = self.ground.astype(np.float32)
        for item in self.items:
            mask = self.mask(item)
            inked = mask > 0
            image[inked] += mask[inked, None] * (rgb(item.colour) - image[inked])
        return image

    def swap(self, old: Item, new: Item | None) -> "Scene":
        """The scene with `new` in the place of `old`, or without it."""
        kept = tuple(item for item in self.items if item != old)
        return replace(self, items=kept if new is None else (*kept, new))


def draw_scene(rng: np.random.Generator, width: int = 128, height: int = 128, shapes: int | None = None) -> Scene:
    """A random scene with `shapes` shapes, or with one to four.

    Raises ValueError where `shapes` is not one to four: more seldom find room.
    """
    if shapes is not None and not 1 <= shapes <= _MOST_SHAPES:
        raise ValueError(f"shapes must be 1 to {_MOST_SHAPES}, not {shapes}")
    scene = Scene(ground(rng, width, height), ())
    order = rng.permutation(SHAPES)
    for shape in order[: shapes or rng.choice([1, 2, 3, 4], p=[0.25, 0.35, 0.25, 0.15])]:
        item = place(rng, scene, str(shape))
        if item is not None:
            scene = replace(scene, items=(*scene.items, item))
    complete = scene.items if shapes is None else len(scene.items) == shapes
    return scene if complete else draw_scene(rng, width, height, shapes)


def place(rng: np.random.Generator, scene: Scene, shape: str) -> Item | None:
    """A free place for `shape`, in a colour that shows there; None where there is no room."""
    for _ in range(20):
        radius = float(rng.uniform(13, 27))
        item = Item(
            shape,
            str(rng.choice(NAMES)),
            float(rng.uniform(radius + _MARGIN, scene.width - radius - _MARGIN)),
            float(rng.uniform(radius + _MARGIN, scene.height - radius - _MARGIN)),
            radius,
            float(rng.uniform(-8, 8)),
        )
        if fits(scene, item) and shows(scene, item):
            return item
    return None


def place_near_middle(scene: Scene, shape: str, colour: str, radius: float) -> Item | None:
    """`shape`, upright, as near the middle as it fits; None where it fits nowhere, does not show there, or nearly fits
    at a nearer point.

    One place for one scene: who is asked to add a shape without being told where has nothing to guess. It is one of a
    few points which such shapes hardly share, so that no picture is a mixture of two; of equally near ones the first
    from the top left.
    """
    middle = (scene.width / 2, scene.height / 2)
    points = [(x, y) for y in range(_STEP, scene.height, _STEP) for x in range(_STEP, scene.width, _STEP)]
    for x, y in sorted(points, key=lambda point: math.dist(point, middle)):
        item = Item(shape, colour, float(x), float(y), radius)
        if fits(scene, replace(item, radius=radius * _AMPLE)):
            return item if shows(scene, item) else None
        if fits(scene, replace(item, radius=radius * _SCANT)):
            return None
    return None


def moved(scene: Scene, item: Item, step_x: int, step_y: int) -> Item | None:
    """`item` MOVE_PIXELS away in that direction; None where it would not fit or not show."""
    after = replace(item, x=item.x + step_x * MOVE_PIXELS, y=item.y + step_y * MOVE_PIXELS)
    rest = scene.swap(item, None)
    return after if fits(rest, after) and shows(rest, after) else None


def fits(scene: Scene, item: Item) -> bool:
    """Whether `item` lies inside the picture and touches no other shape of the scene."""
    reach = item.radius * 1.08
    inside = reach <= item.x <= scene.width - reach and reach <= item.y <= scene.height - reach
    apart = all(
        np.hypot(item.x - other.x, item.y - other.y) >= 1.05 * (item.radius + other.radius) + _MARGIN
        for other in scene.items
    )
    return bool(inside and apart)


def shows(scene: Scene, item: Item) -> bool:
    """Whether `item`'s colour stands out from the ground behind it."""
    left, right = int(item.x - item.radius), int(item.x + item.radius)
    top, bottom = int(item.y - item.radius), int(item.y + item.radius)
    behind = scene.ground[max(top, 0) : bottom, max(left, 0) : right].mean(axis=(0, 1))
    return bool(np.linalg.norm(behind - np.array(COLOURS[item.colour])) >= _CONTRAST)
