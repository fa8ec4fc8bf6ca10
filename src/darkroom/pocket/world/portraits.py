"""Portraits, several views of one person, and edits of what a person wears."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from darkroom.pocket.world.colours import NAMES, Pixels, rgb
from darkroom.pocket.world.edit import Edit, differing
from darkroom.pocket.world.grounds import flat, ground
from darkroom.pocket.world.people import (
    Person,
    View,
    can_be_told_apart,
    draw_person,
    draw_pose,
    draw_view,
    paint,
    stands_out,
)
from darkroom.pocket.world.phrases import phrase


@dataclass(frozen=True)
class Portrait:
    """A person in a view, in front of a ground of [H, W, 3] in [0, 1]."""

    person: Person
    view: View
    ground: Pixels

    def render(self) -> Pixels:
        """[H, W, 3] in [0, 1]."""
        return paint(self.person, self.view, self.ground)


Draw = Callable[[np.random.Generator, Portrait], tuple[Portrait, Portrait, str | None] | None]


def draw_portrait(
    rng: np.random.Generator, width: int = 128, height: int = 128, person: Person | None = None
) -> Portrait:
    """A random view of `person`, or of anyone, in front of a ground that they stand out from."""
    who = person if person is not None else draw_person(rng)
    view = draw_view(rng, width, height)
    while True:
        behind = ground(rng, width, height)
        if stands_out(who, behind):
            return Portrait(who, view, behind)


def draw_captioned(rng: np.random.Generator, width: int = 128, height: int = 128) -> tuple[Pixels, str]:
    """A portrait in front of one colour, [H, W, 3] in [0, 1], and words that say all, some or nothing of it.

    The sitter poses: words say nothing of place and tilt, and a drawing that averages over them has no face.
    """
    while True:
        person = draw_person(rng)
        name = str(rng.choice(NAMES)) if rng.random() < 0.6 else None
        behind = _plain(rng, name, width, height)
        if not stands_out(person, behind):
            continue
        picture = Portrait(person, draw_pose(rng, width, height), behind).render()
        text = person.caption()
        if rng.random() < 0.5:
            told = tuple(trait for trait in ("skin", "eyes", "shirt", "glasses", "hat") if rng.random() < 0.5)
            text = person.described(bool(rng.random() < 0.5), told)
        if name is not None:
            text = f"{text} in front of a {name} background".replace(" a orange", " an orange")
        return picture, text if rng.random() < 0.5 else f"a portrait of {text}"


def draw_sitting(rng: np.random.Generator, person: Person, width: int = 128, height: int = 128) -> Portrait:
    """`person` posing in front of one colour that they stand out from, as the portraits from captions do."""
    pose = draw_pose(rng, width, height)
    while True:
        behind = _plain(rng, None, width, height)
        if stands_out(person, behind):
            return Portrait(person, pose, behind)


def _plain(rng: np.random.Generator, name: str | None, width: int, height: int) -> Pixels:
    """One colour, [H, W, 3]: the named one, or any."""
    colour = rgb(name) if name is not None else rng.uniform(0.15, 0.9) + rng.uniform(-0.12, 0.12, 3)
    return flat(np.clip(colour, 0, 1), width, height)


def draw_portrait_edit(rng: np.random.Generator, kind: str, width: int = 128, height: int = 128) -> Edit:
    """Give the person "hair" of a colour, "glasses", or a "hat" of a colour."""
    while True:
        drawn = PORTRAIT_EDITS[kind](rng, draw_portrait(rng, width, height))
        if drawn is None:
            continue
        before, after, colour = drawn
        if can_be_told_apart(after.person) and stands_out(after.person, after.ground):
            source, target = before.render(), after.render()
            text = phrase(rng, kind, colour=colour or "")
            return Edit(kind, text, source, target, differing(source, target), colour=colour)


def _hair(rng: np.random.Generator, portrait: Portrait) -> tuple[Portrait, Portrait, str | None] | None:
    person = portrait.person
    if person.cut == "bald":
        return None
    colour = str(rng.choice([name for name in NAMES if name != person.hair]))
    return portrait, replace(portrait, person=replace(person, hair=colour)), colour


def _glasses(_rng: np.random.Generator, portrait: Portrait) -> tuple[Portrait, Portrait, str | None] | None:
    person = portrait.person
    without, with_them = (replace(portrait, person=replace(person, glasses=worn)) for worn in (False, True))
    return without, with_them, None


def _hat(rng: np.random.Generator, portrait: Portrait) -> tuple[Portrait, Portrait, str | None] | None:
    bare = replace(portrait, person=replace(portrait.person, hat=None))
    colour = str(rng.choice(NAMES))
    return bare, replace(portrait, person=replace(portrait.person, hat=colour)), colour


PORTRAIT_EDITS: dict[str, Draw] = {"hair": _hair, "glasses": _glasses, "hat": _hat}
