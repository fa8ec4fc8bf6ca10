"""A reader of people: the attributes and the view whose drawing is nearest to the picture."""

from collections.abc import Iterator
from dataclasses import replace

import cv2
import numpy as np

from darkroom.pocket.world.colours import COLOURS, NAMES, Pixels
from darkroom.pocket.world.people import CUTS, EYES, HAIRS, SKINS, Person, View, layer

# Steps in which the view is looked for from where it is expected: in pixels, as a factor, in degrees, of the turn; and
# the lights.
_SHIFTS = (-3.0, -1.0, -0.4, 0.4, 1.0, 3.0)
_SIZES = (0.94, 0.98, 1.02, 1.06)
_TILTS = (-4.0, -1.0, 1.0, 4.0)
_TURNS = (-0.8, -0.2, 0.2, 0.8)
_LIGHTS = (0.9, 0.95, 1.0, 1.05)
_MOST_ROUNDS = 8
# Places in the head's own coordinates where one colour is to be expected.
_CHEEKS = ((-0.4, 0.3), (0.4, 0.3), (0.0, 0.75))
_PARTING = ((-0.2, -0.75), (0.0, -0.8), (0.2, -0.75))
_CHEST = ((-0.5, 1.7), (0.0, 1.7), (0.5, 1.7))

Guess = tuple[Person, View]


def read_person(picture: Pixels, expected: View) -> tuple[Person, View, float]:
    """Who is in `picture` [H, W, 3] in [0, 1], how it is seen, and the mean absolute difference that remains.

    Analysis by synthesis: one attribute after the other is changed as long as the drawing comes nearer. Finds a head
    within some pixels of where it is expected; a difference above 0.1 means that there is none. The ground is taken to
    be of the colour of the picture's upper border. What a hat covers, and a bald person's hair, are guessed, not read.
    """
    height, width = picture.shape[:2]
    ground = np.broadcast_to(np.median(picture[:3].reshape(-1, 3), axis=0), picture.shape)
    seen = cv2.GaussianBlur(picture, (0, 0), 0.7)

    def distance(guess: Guess) -> float:
        person, view = guess
        colours, mask = layer(person, view, width, height)
        drawn = ground * (1 - mask[..., None]) + np.clip(colours * view.light, 0, 1)
        return float(np.abs(cv2.GaussianBlur(drawn.astype(np.float32), (0, 0), 0.7) - seen).mean())

    best = _first_guess(picture, expected)
    nearest = distance(best)
    for _ in range(_MOST_ROUNDS):
        before = nearest
        for others in _ALTERNATIVES:
            for guess in others(*best):
                away = distance(guess)
                if away < nearest:
                    best, nearest = guess, away
        if nearest == before:
            break
    return (*best, nearest)


def _first_guess(picture: Pixels, view: View) -> Guess:
    """Each large part in the colour that is nearest to what stands in its middle."""
    skin, hair, shirt = (_colour_at(picture, view, places) for places in (_CHEEKS, _PARTING, _CHEST))
    person = Person(
        skin=_nearest(SKINS, skin),
        hair=_nearest(HAIRS, hair),
        cut="short",
        eyes="brown",
        shirt=_nearest(COLOURS, shirt),
    )
    return person, view


def _colour_at(picture: Pixels, view: View, places: tuple[tuple[float, float], ...]) -> Pixels:
    height, width = picture.shape[:2]
    columns = [min(max(round(view.x + view.size * x), 0), width - 1) for x, _ in places]
    rows = [min(max(round(view.y + view.size * y), 0), height - 1) for _, y in places]
    return np.asarray(np.median(picture[rows, columns], axis=0))


def _nearest(palette: dict[str, tuple[float, float, float]], colour: Pixels) -> str:
    return min(palette, key=lambda name: float(np.sum((np.array(palette[name]) - colour) ** 2)))


def _places(person: Person, view: View) -> Iterator[Guess]:
    yield from ((person, replace(view, x=view.x + step)) for step in _SHIFTS)
    yield from ((person, replace(view, y=view.y + step)) for step in _SHIFTS)
    yield from ((person, replace(view, size=view.size * factor)) for factor in _SIZES)
    yield from ((person, replace(view, tilt=view.tilt + step)) for step in _TILTS)
    # Together: a head that is too large and too high has its chin in the right place.
    for size in (_SIZES[0], _SIZES[-1]):
        for step in (_SHIFTS[0], _SHIFTS[-1]):
            yield person, replace(view, y=view.y + step, size=view.size * size)


def _directions(person: Person, view: View) -> Iterator[Guess]:
    yield from ((person, replace(view, turn=view.turn + step)) for step in _TURNS)
    yield from ((person, replace(view, light=light)) for light in _LIGHTS)


def _skins(person: Person, view: View) -> Iterator[Guess]:
    yield from ((replace(person, skin=skin), view) for skin in SKINS)


def _shirts(person: Person, view: View) -> Iterator[Guess]:
    yield from ((replace(person, shirt=shirt), view) for shirt in NAMES)


def _heads(person: Person, view: View) -> Iterator[Guess]:
    """Cuts and hats: what covers the head; then the hair's colour."""
    yield from ((replace(person, cut=cut), view) for cut in CUTS)
    yield from ((replace(person, hat=hat), view) for hat in (None, *NAMES))
    yield from ((replace(person, hair=hair), view) for hair in HAIRS)
    # What was taken for hair may be a hat.
    if person.hair in NAMES:
        covered = replace(person, hat=person.hair)
        yield from ((replace(covered, hair=hair, cut=cut), view) for hair in HAIRS for cut in CUTS)


def _faces(person: Person, view: View) -> Iterator[Guess]:
    yield from ((replace(person, glasses=worn, eyes=eyes), view) for worn in (False, True) for eyes in EYES)


_ALTERNATIVES = (_places, _skins, _shirts, _heads, _directions, _faces)
