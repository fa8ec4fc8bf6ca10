"""Edits that a small mark in the picture decides: a dot's colour or place, a word, an arrow.

The mark is in what the vision encoders see and taken out of what the VAE gets: without sight nobody can know.
"""

from dataclasses import replace

import cv2
import numpy as np

from darkroom.pocket.world.colours import NAMES, Pixels, rgb
from darkroom.pocket.world.edit import Edit, swapped
from darkroom.pocket.world.grounds import flat
from darkroom.pocket.world.lettering import Lettering
from darkroom.pocket.world.phrases import DIRECTIONS, phrase
from darkroom.pocket.world.scenes import Item, Scene, draw_scene, moved, shows

# The sight's pixels for one of the VAE's: marks that are read at this size are a few grey pixels at the other.
SIGHT_SCALE = 2
# In pixels of the VAE's picture.
_DOT_RADIUS = 1.5
# A dot that the coarser sight can read as well: what it is taught with.
LARGE_DOT_RADIUS = 7.0
_DOT_ROOM = LARGE_DOT_RADIUS + 2
# How far from its side of the picture a dot lies that says where to.
_BAND = (_DOT_ROOM, 18.0)
_ARROW_RADIUS = 4.0
_FONT_SIZE = 6
_TURN = {"up": 0.0, "right": 90.0, "down": 180.0, "left": 270.0}


def draw_by_dot(rng: np.random.Generator, width: int = 128, height: int = 128) -> Edit:
    """A shape takes the colour of a dot."""
    while True:
        scene, item = _meant(rng, width, height)
        after = replace(item, colour=_other_colour(rng, item))
        place = _free(rng, scene, _DOT_ROOM, _DOT_ROOM)
        if place is None:
            continue
        dot = Item("circle", after.colour, *place, _DOT_RADIUS)
        if shows(scene, after) and shows(scene, dot):
            text = phrase(rng, "dot", shape=item.shape)
            return _dotted(swapped("dot", text, scene, item, after), scene, dot)


def draw_ground_by_dot(rng: np.random.Generator, width: int = 128, height: int = 128) -> Edit:
    """The background takes the colour of a dot."""
    while True:
        scene = draw_scene(rng, width, height)
        dot = draw_dot(rng, scene)
        if dot is None:
            continue
        target = replace(scene, ground=flat(rgb(dot.colour), width, height))
        if all(shows(target, item) for item in scene.items):
            inside = np.max([scene.mask(item) for item in scene.items], axis=0)
            text = phrase(rng, "dot background")
            edit = Edit(
                "dot background", text, scene.render(), target.render(), inside < 1, colour=dot.colour, scene=target
            )
            return _dotted(edit, scene, dot)


def draw_move_by_dot(rng: np.random.Generator, width: int = 128, height: int = 128) -> Edit:
    """A shape moves to the side of the picture that a dot lies at."""
    while True:
        scene, item = _meant(rng, width, height)
        direction = str(rng.choice(list(DIRECTIONS)))
        after = moved(scene, item, *DIRECTIONS[direction])
        dot = Item("circle", str(rng.choice(NAMES)), *_beside(rng, direction, width, height), _DOT_RADIUS)
        if after is not None and _is_free(scene, (dot.x, dot.y), _DOT_ROOM, _DOT_ROOM) and shows(scene, dot):
            text = phrase(rng, "dot move", shape=item.shape)
            return _dotted(swapped("dot move", text, scene, item, after), scene, dot)


def draw_by_label(rng: np.random.Generator, width: int = 128, height: int = 128) -> Edit:
    """A shape takes the colour whose name is written small somewhere, in black or white."""
    while True:
        scene, item = _meant(rng, width, height)
        after = replace(item, colour=_other_colour(rng, item))
        label = Lettering(after.colour.upper(), 0, 0, _FONT_SIZE)
        place = _free(rng, scene, label.width / 2 + 2, _FONT_SIZE)
        if place is not None and shows(scene, after):
            label = replace(label, x=place[0], y=place[1])
            text = phrase(rng, "label", shape=item.shape)
            return replace(swapped("label", text, scene, item, after), sight=_labelled(scene, label))


def draw_by_arrow(rng: np.random.Generator, width: int = 128, height: int = 128) -> Edit:
    """A shape moves where an arrowhead points."""
    while True:
        scene, item = _meant(rng, width, height)
        direction = str(rng.choice(list(DIRECTIONS)))
        after = moved(scene, item, *DIRECTIONS[direction])
        place = _free(rng, scene, 2 * _ARROW_RADIUS, 2 * _ARROW_RADIUS)
        if place is None or after is None:
            continue
        ink = "black" if scene.ground.mean() > 0.5 else "white"
        arrow = Item("triangle", ink, *place, _ARROW_RADIUS, _TURN[direction])
        if shows(scene, arrow):
            text = phrase(rng, "arrow", shape=item.shape)
            return replace(swapped("arrow", text, scene, item, after), sight=_sight(scene, arrow))


def draw_dot(rng: np.random.Generator, scene: Scene, radius: float = _DOT_RADIUS) -> Item | None:
    """A dot on the ground, in a colour that shows there; None where there is no room for a large one."""
    place = _free(rng, scene, _DOT_ROOM, _DOT_ROOM)
    if place is None:
        return None
    dot = Item("circle", str(rng.choice(NAMES)), *place, radius)
    return dot if shows(scene, dot) else None


def _meant(rng: np.random.Generator, width: int, height: int) -> tuple[Scene, Item]:
    scene = draw_scene(rng, width, height)
    return scene, scene.items[rng.integers(len(scene.items))]


def _other_colour(rng: np.random.Generator, item: Item) -> str:
    return str(rng.choice([name for name in NAMES if name != item.colour]))


def _beside(rng: np.random.Generator, direction: str, width: int, height: int) -> tuple[float, float]:
    """A place near that side of the picture, away from its corners."""
    inwards = float(rng.uniform(*_BAND))
    x, y = (float(rng.uniform(0.3, 0.7) * side) for side in (width, height))
    return {"left": (inwards, y), "right": (width - inwards, y), "up": (x, inwards), "down": (x, height - inwards)}[
        direction
    ]


def _free(rng: np.random.Generator, scene: Scene, across: float, down: float) -> tuple[float, float] | None:
    """The centre of a place on the ground, `across` pixels to either side and `down` up and down; None without room."""
    for _ in range(20):
        x, y = rng.uniform((across, down), (scene.width - across, scene.height - down))
        if _is_free(scene, (x, y), across, down):
            return float(x), float(y)
    return None


def _is_free(scene: Scene, place: tuple[float, float], across: float, down: float) -> bool:
    x, y = place
    rows, columns = slice(int(y - down), int(y + down) + 1), slice(int(x - across), int(x + across) + 1)
    return not any((scene.mask(item)[rows, columns] > 0).any() for item in scene.items)


def _dotted(edit: Edit, scene: Scene, dot: Item) -> Edit:
    large = replace(scene, items=(*scene.items, replace(dot, radius=LARGE_DOT_RADIUS)))
    return replace(edit, sight=_sight(scene, dot), sight_large=large.render())


def _sight(scene: Scene, mark: Item) -> Pixels:
    return enlarged(replace(scene, items=(*scene.items, mark))).render()


def _labelled(scene: Scene, label: Lettering) -> Pixels:
    picture = enlarged(scene).render()
    large = replace(label, x=label.x * SIGHT_SCALE, y=label.y * SIGHT_SCALE, size=label.size * SIGHT_SCALE)
    mask = large.mask(picture.shape[1], picture.shape[0])
    ink = rgb("black" if picture[mask > 0].mean() > 0.5 else "white")
    return np.asarray(picture + mask[..., None] * (ink - picture), dtype=np.float32)


def enlarged(scene: Scene) -> Scene:
    """The scene at the sight's size."""
    size = (scene.width * SIGHT_SCALE, scene.height * SIGHT_SCALE)
    items = tuple(
        replace(item, x=item.x * SIGHT_SCALE, y=item.y * SIGHT_SCALE, radius=item.radius * SIGHT_SCALE)
        for item in scene.items
    )
    ground = cv2.resize(scene.ground, size, interpolation=cv2.INTER_LINEAR)
    return Scene(np.asarray(ground, dtype=np.float32), items)
