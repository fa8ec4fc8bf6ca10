"""Edits that a small mark in the picture decides: a dot's colour, a word, an arrow.

The mark is in what the vision encoders see and taken out of what the VAE gets: without sight nobody can know.
"""

from dataclasses import replace

import cv2
import numpy as np

from darkroom.pocket.world.colours import NAMES, Pixels, rgb
from darkroom.pocket.world.edit import Edit, swapped
from darkroom.pocket.world.lettering import Lettering
from darkroom.pocket.world.phrases import DIRECTIONS, phrase
from darkroom.pocket.world.scenes import MOVE_PIXELS, Item, Scene, draw_scene, fits, shows

# The sight's pixels for one of the VAE's: marks that are read at this size are a few grey pixels at the other.
SIGHT_SCALE = 2
# In pixels of the VAE's picture.
_DOT_RADIUS = 2.5
_ARROW_RADIUS = 4.0
_FONT_SIZE = 6
_TURN = {"up": 0.0, "right": 90.0, "down": 180.0, "left": 270.0}


def draw_by_dot(rng: np.random.Generator, width: int = 128, height: int = 128) -> Edit:
    """A shape takes the colour of a dot."""
    while True:
        scene, item = _meant(rng, width, height)
        after = replace(item, colour=_other_colour(rng, item))
        place = _free(rng, scene, 2 * _DOT_RADIUS, 2 * _DOT_RADIUS)
        if place is None:
            continue
        dot = Item("circle", after.colour, *place, _DOT_RADIUS)
        if shows(scene, after) and shows(scene, dot):
            text = phrase(rng, "dot", shape=item.shape)
            return replace(swapped("dot", text, scene, item, after), sight=_sight(scene, dot))


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
        step_x, step_y = DIRECTIONS[direction]
        after = replace(item, x=item.x + step_x * MOVE_PIXELS, y=item.y + step_y * MOVE_PIXELS)
        rest = scene.swap(item, None)
        place = _free(rng, scene, 2 * _ARROW_RADIUS, 2 * _ARROW_RADIUS)
        if place is None or not (fits(rest, after) and shows(rest, after)):
            continue
        ink = "black" if scene.ground.mean() > 0.5 else "white"
        arrow = Item("triangle", ink, *place, _ARROW_RADIUS, _TURN[direction])
        if shows(scene, arrow):
            text = phrase(rng, "arrow", shape=item.shape)
            return replace(swapped("arrow", text, scene, item, after), sight=_sight(scene, arrow))


def _meant(rng: np.random.Generator, width: int, height: int) -> tuple[Scene, Item]:
    scene = draw_scene(rng, width, height)
    return scene, scene.items[rng.integers(len(scene.items))]


def _other_colour(rng: np.random.Generator, item: Item) -> str:
    return str(rng.choice([name for name in NAMES if name != item.colour]))


def _free(rng: np.random.Generator, scene: Scene, across: float, down: float) -> tuple[float, float] | None:
    """The centre of a place on the ground, `across` pixels to either side and `down` up and down; None without room."""
    taken = np.any([scene.mask(item) > 0 for item in scene.items], axis=0)
    for _ in range(20):
        x, y = rng.uniform((across, down), (scene.width - across, scene.height - down))
        if not taken[int(y - down) : int(y + down) + 1, int(x - across) : int(x + across) + 1].any():
            return float(x), float(y)
    return None


def _sight(scene: Scene, mark: Item) -> Pixels:
    return _enlarged(replace(scene, items=(*scene.items, mark))).render()


def _labelled(scene: Scene, label: Lettering) -> Pixels:
    picture = _enlarged(scene).render()
    large = replace(label, x=label.x * SIGHT_SCALE, y=label.y * SIGHT_SCALE, size=label.size * SIGHT_SCALE)
    mask = large.mask(picture.shape[1], picture.shape[0])
    ink = rgb("black" if picture[mask > 0].mean() > 0.5 else "white")
    return np.asarray(picture + mask[..., None] * (ink - picture), dtype=np.float32)


def _enlarged(scene: Scene) -> Scene:
    """The scene at the sight's size."""
    size = (scene.width * SIGHT_SCALE, scene.height * SIGHT_SCALE)
    items = tuple(
        replace(item, x=item.x * SIGHT_SCALE, y=item.y * SIGHT_SCALE, radius=item.radius * SIGHT_SCALE)
        for item in scene.items
    )
    ground = cv2.resize(scene.ground, size, interpolation=cv2.INTER_LINEAR)
    return Scene(np.asarray(ground, dtype=np.float32), items)
