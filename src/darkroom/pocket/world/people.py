"""People: simple faces drawn from attributes, the same person in any view."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import cv2
import numpy as np
from numpy.typing import NDArray

from darkroom.pocket.world.colours import COLOURS, NAMES, Pixels, rgb

SKINS: dict[str, tuple[float, float, float]] = {
    "light": (0.96, 0.80, 0.69),
    "tan": (0.85, 0.63, 0.47),
    "brown": (0.60, 0.40, 0.27),
    "dark": (0.37, 0.24, 0.16),
}
HAIRS: dict[str, tuple[float, float, float]] = {
    **COLOURS,
    "brown": (0.38, 0.20, 0.08),
    "blond": (0.86, 0.72, 0.42),
    "gray": (0.58, 0.58, 0.60),
}
EYES: dict[str, tuple[float, float, float]] = {
    "blue": (0.20, 0.45, 0.85),
    "green": (0.20, 0.58, 0.30),
    "brown": (0.42, 0.24, 0.10),
    "black": (0.08, 0.08, 0.08),
}
CUTS = ("short", "long", "curly", "bald")

_INK = (0.07, 0.07, 0.09)
_MOUTH = (0.72, 0.25, 0.27)
# Neighbouring parts are at least this far apart (Euclidean in sRGB): each can be seen and read back.
_CONTRAST = 0.25
_SUPERSAMPLING = 4
# How far the features slide at a full turn, in units of half the head's height.
_SLIDE = 0.2
# A person is three rigid bodies. As shares of _SLIDE: head, hair and shoulders stay; what lies on the face slides; the
# nose, which stands out of it, and the irises slide further.
BODIES = (0.0, 1.0, 1.3)

Outline = NDArray[np.float32]
Labels = NDArray[np.int64]
Colour = tuple[float, float, float]
# An outline, its colour, and which of BODIES it belongs to.
Part = tuple[Outline, Colour, int]
_HEAD, _FACE, _BEYOND = range(3)


@dataclass(frozen=True)
class Person:
    """Who it is. Colours by name: `skin` of SKINS, `hair` of HAIRS, `eyes` of EYES, `shirt` and `hat` of COLOURS."""

    skin: str
    hair: str
    cut: str
    eyes: str
    shirt: str
    glasses: bool = False
    hat: str | None = None

    def caption(self) -> str:
        """The person in words, every attribute named."""
        return self.described(hair=True, traits=("skin", "eyes", "shirt", "glasses", "hat"))

    def described(self, hair: bool, traits: tuple[str, ...]) -> str:
        """The person in words that name the hair or not, and those of `traits` that there are, in their order."""
        told = {
            "skin": f"{self.skin} skin",
            "eyes": f"{self.eyes} eyes",
            "shirt": f"a {self.shirt} shirt",
            "glasses": "glasses" if self.glasses else None,
            "hat": f"a {self.hat} hat" if self.hat is not None else None,
        }
        parts = [part for trait in traits if (part := told[trait]) is not None]
        who, joint = "a person", "with"
        if hair:
            who = "a bald person" if self.cut == "bald" else f"a person with {self.cut} {self.hair} hair"
            joint = "with" if self.cut == "bald" else "and"
        if not parts:
            return who
        listed = " and ".join(filter(None, (", ".join(parts[:-1]), parts[-1])))
        return f"{who} {joint} {listed}".replace(" a orange", " an orange")


@dataclass(frozen=True)
class View:
    """How a person is seen: the head's centre and half its height in pixels, its tilt in degrees.

    `turn`: -1 (to the left of the picture) to 1; `light`: the gain of the whole picture.
    """

    x: float
    y: float
    size: float
    tilt: float = 0.0
    turn: float = 0.0
    light: float = 1.0


def draw_person(rng: np.random.Generator) -> Person:
    """Random attributes, no two touching ones of like colour."""
    while True:
        person = Person(
            skin=str(rng.choice(list(SKINS))),
            hair=str(rng.choice(list(HAIRS))),
            cut=str(rng.choice(CUTS, p=[0.3, 0.3, 0.25, 0.15])),
            eyes=str(rng.choice(list(EYES))),
            shirt=str(rng.choice(NAMES)),
            glasses=bool(rng.random() < 0.35),
            hat=str(rng.choice(NAMES)) if rng.random() < 0.3 else None,
        )
        if can_be_told_apart(person):
            return person


def can_be_told_apart(person: Person, behind: Pixels | None = None) -> bool:
    """Whether hair, hat, shirt and skin stand out from what they touch, and from `behind` (a colour) if given."""
    skin = np.array(SKINS[person.skin])
    hair = np.array(HAIRS[person.hair])
    worn = [rgb(person.hat)] if person.hat is not None else []
    pairs = [(skin, rgb(person.shirt)), *((skin, hat) for hat in worn)]
    if person.cut != "bald":
        pairs += [(skin, hair), (hair, rgb(person.shirt)), *((hair, hat) for hat in worn)]
    if behind is not None:
        pairs += [(behind, part) for part in (skin, rgb(person.shirt), *worn)]
        if person.cut != "bald":
            pairs.append((behind, hair))
    return all(float(np.linalg.norm(one - other)) >= _CONTRAST for one, other in pairs)


def stands_out(person: Person, behind: Pixels) -> bool:
    """Whether `person` can be told apart from every quarter of `behind`."""
    height, width = behind.shape[:2]
    quarters = (behind[y : y + height // 2, x : x + width // 2] for y in (0, height // 2) for x in (0, width // 2))
    return all(can_be_told_apart(person, quarter.mean(axis=(0, 1))) for quarter in quarters)


def draw_view(rng: np.random.Generator, width: int = 128, height: int = 128) -> View:
    """A view that shows the whole head and some of the shirt."""
    size = float(rng.uniform(30, 38)) * min(width, height) / 128
    # A hat rises 1.35 above the head's centre, the shirt begins 1.2 below it.
    return View(
        x=float(rng.uniform(1.05 * size, width - 1.05 * size)),
        y=float(rng.uniform(1.38 * size, max(1.42 * size, height - 1.7 * size))),
        size=size,
        tilt=float(rng.uniform(-8, 8)),
        turn=float(rng.uniform(-1, 1)),
        light=float(rng.uniform(0.9, 1.05)),
    )


def draw_pose(rng: np.random.Generator, width: int = 128, height: int = 128) -> View:
    """A view as a sitter poses for a portrait: in the middle, upright but for a few pixels and degrees."""
    size = float(rng.uniform(0.26, 0.29)) * min(width, height)
    return View(
        x=width / 2 + float(rng.uniform(-0.08, 0.08)) * size,
        y=1.42 * size + float(rng.uniform(0, 0.16)) * size,
        size=size,
        tilt=float(rng.uniform(-3, 3)),
        turn=float(rng.uniform(-0.6, 0.6)),
        light=float(rng.uniform(0.95, 1.02)),
    )


def paint(person: Person, view: View, ground: Pixels) -> Pixels:
    """The person in front of `ground` [H, W, 3] in [0, 1]: [H, W, 3]."""
    colours, mask = layer(person, view, ground.shape[1], ground.shape[0])
    picture = ground * (1 - mask[..., None]) + colours
    return np.asarray(np.clip(picture * view.light, 0, 1), dtype=np.float32)


def layer(person: Person, view: View, width: int, height: int) -> tuple[Pixels, Pixels]:
    """The person alone, without light: colours times coverage [height, width, 3], and coverage [height, width]."""
    canvas = np.zeros((height * _SUPERSAMPLING, width * _SUPERSAMPLING, 4), np.uint8)
    for points, colour, _ in _seen(person, view):
        cv2.fillPoly(canvas, [points], (*(round(255 * part) for part in colour), 255), shift=4)
    small = cv2.resize(canvas, (width, height), interpolation=cv2.INTER_AREA).astype(np.float32) / np.float32(255)
    return small[..., :3], small[..., 3]


def bodies(person: Person, view: View, width: int, height: int) -> Labels:
    """[height, width]: which of BODIES most of what a pixel shows of the person belongs to.

    −1 where the person covers less than half of the pixel.
    """
    scale = _SUPERSAMPLING
    canvas = np.zeros((height * scale, width * scale), np.uint8)
    for points, _, body in _seen(person, view):
        cv2.fillPoly(canvas, [points], (1 + body,), shift=4)
    samples = canvas.reshape(height, scale, width, scale)
    counts = np.stack([(samples == 1 + body).sum(axis=(1, 3)) for body in range(len(BODIES))])
    return np.where(2 * counts.sum(axis=0) >= scale**2, counts.argmax(axis=0), -1)


def middle(view: View, body: int) -> tuple[float, float]:
    """Where the middle of one of BODIES lies in the picture: the head's own, slid along the head's own x axis."""
    across, angle = view.size * BODIES[body] * _SLIDE * view.turn, np.deg2rad(view.tilt)
    return view.x + across * float(np.cos(angle)), view.y + across * float(np.sin(angle))


def _seen(person: Person, view: View) -> Iterator[tuple[NDArray[np.int32], Colour, int]]:
    """The parts on a canvas that is _SUPERSAMPLING times as large: outlines in 16ths of its pixels."""
    angle = np.deg2rad(view.tilt)
    turned = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]) * view.size * _SUPERSAMPLING
    for outline, colour, body in _parts(person, view.turn):
        points = outline @ turned.T + np.array([view.x, view.y]) * _SUPERSAMPLING
        yield np.round(points * 16).astype(np.int32), colour, body


def _parts(person: Person, turn: float) -> Iterator[Part]:
    """Outlines in units of half the head's height around its centre, y down, from back to front."""
    skin = SKINS[person.skin]
    shade = (0.88 * skin[0], 0.86 * skin[1], 0.84 * skin[2])
    yield from _hair_behind(person)
    yield _box(-0.27, 0.6, 0.27, 1.4), shade, _HEAD
    yield _SHOULDERS, COLOURS[person.shirt], _HEAD
    yield from ((_ellipse(side * 0.73, 0.02, 0.13, 0.18), shade, _HEAD) for side in (-1, 1))
    yield _ellipse(0, 0, 0.74, 0.96), skin, _HEAD
    yield from _hair_in_front(person)
    yield from _features(person, _SLIDE * turn, shade)
    if person.hat is not None:
        colour = COLOURS[person.hat]
        yield _outline([[-0.66, -0.6], [-0.56, -1.32], [0.56, -1.32], [0.66, -0.6]]), colour, _HEAD
        yield _ellipse(0, -0.6, 1.02, 0.13), colour, _HEAD


def _hair_behind(person: Person) -> Iterator[Part]:
    colour = HAIRS[person.hair]
    if person.cut == "long":
        yield _ellipse(0, -0.1, 0.95, 1.0), colour, _HEAD
        yield _outline([[-0.95, -0.1], [-1.0, 1.25], [1.0, 1.25], [0.95, -0.1]]), colour, _HEAD
    if person.cut == "curly":
        for angle in np.deg2rad(np.arange(-35, 216, 25)):
            yield _ellipse(float(0.85 * np.cos(angle)), float(-0.1 - 0.88 * np.sin(angle)), 0.3, 0.3), colour, _HEAD


def _hair_in_front(person: Person) -> Iterator[Part]:
    if person.cut != "bald":
        yield _FRINGE, HAIRS[person.hair], _HEAD


def _features(person: Person, slide: float, shade: Colour) -> Iterator[Part]:
    for side in (-0.3, 0.3):
        x = side + slide
        yield _ellipse(x, -0.05, 0.16, 0.1), (0.97, 0.97, 0.97), _FACE
        yield _ellipse(x + 0.3 * slide, -0.05, 0.09, 0.095), EYES[person.eyes], _BEYOND
        yield _ellipse(x + 0.3 * slide, -0.05, 0.04, 0.04), _INK, _BEYOND
    yield _outline([[slide * 1.3 - 0.02, 0.0], [slide * 1.3 + 0.1, 0.3], [slide * 1.3 - 0.1, 0.3]]), shade, _BEYOND
    yield _arc(slide, 0.42, 0.3, 0.16), _MOUTH, _FACE
    if person.glasses:
        for side in (-0.3, 0.3):
            yield _frame(side + slide, -0.05, 0.25, 0.06), _INK, _FACE
        yield _box(slide - 0.08, -0.1, slide + 0.08, -0.03), _INK, _FACE


def _outline(points: list[list[float]]) -> Outline:
    return np.array(points, dtype=np.float32)


def _ellipse(x: float, y: float, across: float, down: float) -> Outline:
    angles = np.linspace(0, 2 * np.pi, 40, endpoint=False)
    return np.stack([x + across * np.cos(angles), y + down * np.sin(angles)], axis=1).astype(np.float32)


def _frame(x: float, y: float, radius: float, thickness: float) -> Outline:
    """A ring as one outline: round outside, back round inside."""
    outer = _ellipse(x, y, radius, radius)
    inner = _ellipse(x, y, radius - thickness, radius - thickness)[::-1]
    return np.concatenate([outer, outer[:1], inner[-1:], inner])


def _arc(x: float, y: float, across: float, down: float) -> Outline:
    """A smile: the lower half of an ellipse with a flatter one cut off."""
    angles = np.linspace(0, np.pi, 16)
    lower = np.stack([x + across * np.cos(angles), y + down * np.sin(angles)], axis=1)
    upper = np.stack([x + across * np.cos(angles), y + 0.3 * down * np.sin(angles)], axis=1)[::-1]
    return np.concatenate([lower, upper]).astype(np.float32)


def _box(left: float, top: float, right: float, bottom: float) -> Outline:
    return _outline([[left, top], [right, top], [right, bottom], [left, bottom]])


def _hairline() -> Outline:
    """Hair on top: from ear to ear over the head, and back along the forehead."""
    over = np.deg2rad(np.linspace(172, 368, 30))
    outer = np.stack([0.82 * np.cos(over), -0.04 + 1.06 * np.sin(over)], axis=1)
    back = np.linspace(0.68, -0.68, 15)
    inner = np.stack([back, -0.5 + 0.42 * (back / 0.68) ** 4], axis=1)
    return np.concatenate([outer, inner]).astype(np.float32)


_FRINGE = _hairline()
_SHOULDERS = _outline(
    [[-1.75, 6], [-1.55, 1.75], [-1.2, 1.4], [-0.45, 1.15], [0, 1.3], [0.45, 1.15], [1.2, 1.4], [1.55, 1.75], [1.75, 6]]
)


def recoloured(rng: np.random.Generator, person: Person) -> Person:
    """Somebody else of the same outlines: other colours, the same cut, glasses and hat or none."""
    while True:
        other = draw_person(rng)
        hat = str(rng.choice(NAMES)) if person.hat is not None else None
        other = replace(other, cut=person.cut, glasses=person.glasses, hat=hat)
        if can_be_told_apart(other):
            return other
