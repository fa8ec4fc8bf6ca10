"""People move in clips, and what is known of their movement is exact."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from darkroom.pocket.judging.rules import is_right
from darkroom.pocket.stages.drawing import SETS, draw_set
from darkroom.pocket.world.clips import Clip, draw_people_clip
from darkroom.pocket.world.colours import Pixels, rgb
from darkroom.pocket.world.edit import grown
from darkroom.pocket.world.edits import draw_edit
from darkroom.pocket.world.movers import Mover, Placed, Sitter
from darkroom.pocket.world.people import BODIES, SKINS, Person, View, _parts
from darkroom.pocket.world.scenes import Item

FRAMES, WIDTH, HEIGHT = 8, 160, 128
SOMEBODY = Person("light", "brown", "long", "blue", "red", glasses=True)
GREY = np.full((128, 128, 3), 0.5, dtype=np.float32)


def drawn(seed: int) -> Clip:
    return draw_people_clip(np.random.default_rng((11, seed)), FRAMES, WIDTH, HEIGHT)


def share(t: int) -> float:
    return t / (FRAMES - 1)


def sitter_of(clip: Clip) -> tuple[Sitter, int]:
    """The person, and the number of their first body."""
    place = next(n for n, mover in enumerate(clip.movers) if isinstance(mover, Sitter))
    sitter = clip.movers[place]
    assert isinstance(sitter, Sitter)
    return sitter, sum(len(mover.placed(0)) for mover in clip.movers[:place])


def alone(clip: Clip) -> Clip:
    return replace(clip, movers=(sitter_of(clip)[0],))


def carried(points: NDArray[np.complex128], here: Placed, there: Placed) -> NDArray[np.complex128]:
    """The same similarity in the complex plane."""
    factor = there.unit / here.unit * np.exp(1j * np.deg2rad(there.degrees - here.degrees))
    return (points - complex(here.x, here.y)) * factor + complex(there.x, there.y)


@pytest.mark.parametrize("seed", range(6))
def test_the_drawings_outlines_are_where_their_bodies_carry_them(seed: int) -> None:
    sitter, _ = sitter_of(drawn(seed))
    outlines = []
    for t in (2, 6):
        view = sitter.at(share(t))
        unit = view.size * np.exp(1j * np.deg2rad(view.tilt))
        parts = _parts(sitter.person, view.turn)
        outlines.append([((o[:, 0] + 1j * o[:, 1]) * unit + complex(view.x, view.y), body) for o, _, body in parts])
    there, here = (sitter.placed(share(t)) for t in (2, 6))
    for (before, _), (now, body) in zip(*outlines, strict=True):
        assert np.abs(carried(now, here[body], there[body]) - before).max() < 1e-3
    assert {body for _, body in outlines[0]} == set(range(len(BODIES)))


@pytest.mark.parametrize("seed", range(6))
def test_a_frame_is_the_one_before_it_moved_along_the_flow_and_lit_anew(seed: int) -> None:
    clip = drawn(seed)
    rows, columns = np.indices((HEIGHT, WIDTH)).astype(np.float32)
    for t in (1, 4, 7):
        flow, before, now = clip.flow(t), clip.frame(t - 1), clip.frame(t)
        x, y = columns + flow[..., 0], rows + flow[..., 1]
        warped = cv2.remap(before, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        error = np.abs(warped * (clip.light(t) / clip.light(t - 1)) - now).max(axis=-1)
        error[(warped.max(axis=-1) > 0.99) | (now.max(axis=-1) > 0.99)] = 0  # overexposed
        # Outlines are soft: their pixels show two bodies, which move apart.
        window = np.ones((5, 5), np.uint8)
        pure = cv2.erode(clip.visible(t).astype(np.uint8), window) > 0
        plain = pure & ((cv2.dilate(now, window) - cv2.erode(now, window)).max(axis=-1) < 0.1)
        assert plain.mean() > 0.6
        assert error[plain].max() < 0.05
        assert error[pure].mean() < 0.004


def test_a_dense_flow_of_the_pictures_finds_the_same_movement_where_there_is_something_to_see() -> None:
    finder = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    finder.setFinestScale(0)
    off = []
    for seed in range(4):
        clip = alone(drawn(seed))
        for t in (2, 5):
            now, before = (
                cv2.cvtColor(np.round(clip.frame(at) / clip.light(at) * 235).astype(np.uint8), cv2.COLOR_RGB2GRAY)
                for at in (t, t - 1)
            )
            found = finder.calc(now, before, None)
            for body in (1, 2):
                there = (clip.owners(t) == body) & clip.visible(t)
                off.append(np.hypot(*(found - clip.flow(t))[there].mean(axis=0)))
    assert np.median(off) < 0.08
    assert np.max(off) < 0.4


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_what_is_visible_agrees_with_a_look_at_every_sample_of_pictures_five_times_as_large(seed: int) -> None:
    clip, scale = drawn(seed), 5
    large = enlarged(clip, scale)
    rows, columns = np.indices((HEIGHT * scale, WIDTH * scale)) + 0.5
    points = columns + 1j * rows
    t = 4
    now, before = large.owners(t), large.owners(t - 1)
    here, there = ([p for m in large.movers for p in m.placed(share(at))] for at in (t, t - 1))
    back = points.copy()
    for number, (one, other) in enumerate(zip(here, there, strict=True)):
        back[now == number] = carried(points[now == number], one, other)
    x, y = np.floor(back.real).astype(int), np.floor(back.imag).astype(int)
    inside = (x >= 0) & (x < WIDTH * scale) & (y >= 0) & (y < HEIGHT * scale)
    same = before[y.clip(0, HEIGHT * scale - 1), x.clip(0, WIDTH * scale - 1)] == now
    own = now == clip.owners(t).repeat(scale, 0).repeat(scale, 1)
    seen, asked = ((m & own).reshape(HEIGHT, scale, WIDTH, scale).sum(axis=(1, 3)) for m in (inside & same, own))
    truth, told = seen >= asked / 2, clip.visible(t)
    assert (truth == told).mean() > 0.985
    # Outlines are told a pixel off here and there; nowhere is a whole patch.
    assert grown(truth == told, 1).all()
    assert (told & ~truth).mean() < 0.002


def enlarged(clip: Clip, scale: int) -> Clip:
    def enlarge(state: Item | View) -> Item | View:
        names = ("x", "y", "radius" if isinstance(state, Item) else "size")
        return replace(state, **{name: getattr(state, name) * scale for name in names})

    movers = tuple(replace(mover, first=enlarge(mover.first), last=enlarge(mover.last)) for mover in clip.movers)  # type: ignore[type-var]
    height, width = (side * scale for side in clip.ground.shape[:2])
    return Clip(np.zeros((height, width, 3), np.float32), movers, clip.frames)


def passing(order: slice) -> Clip:
    """A green square whose way leads over the cheek of a head that stays, behind or in front of it."""
    sitter = Sitter(SOMEBODY, View(64, 60, 32), View(64, 60, 32, turn=1.0))
    square = Mover(Item("square", "green", 20, 72, 8), Item("square", "green", 108, 72, 8))
    return Clip(GREY, (square, sitter)[order], 9)


def test_the_later_mover_hides_the_earlier_one() -> None:
    behind, in_front = passing(slice(None)), passing(slice(None, None, -1))
    assert np.allclose(in_front.frame(4)[72, 64], rgb("green"), atol=1e-3)
    assert not np.allclose(behind.frame(4)[72, 64], rgb("green"), atol=0.1)
    for clip in (behind, in_front):
        assert np.allclose(clip.frame(0)[72, 20], rgb("green"), atol=1e-3)
    # The cheek's own light brown comes out where the square has left it, and was not visible before.
    left = (in_front.owners(5) == 0) & (in_front.owners(4) == 3)
    assert left.sum() > 20
    assert not in_front.visible(5)[left].any()
    assert np.allclose(np.median(in_front.frame(5)[left], axis=0), SKINS["light"], atol=0.05)
    # The square that passes behind is hidden, and comes back as something not visible before.
    assert not (behind.owners(4) == 0).any()
    back = [t for t in range(5, 9) if (behind.owners(t) == 0).any()]
    assert not behind.visible(back[0])[behind.owners(back[0]) == 0].all()


def test_a_turning_heads_glasses_slide_and_its_hair_stays() -> None:
    clip = passing(slice(1, 2))
    flow, owners = clip.flow(4), clip.owners(4)
    assert np.all(flow[owners == 0] == 0)
    # A fifth of half the head's height over eight steps; the pupils go 1.3 times as far.
    assert np.allclose(flow[owners == 1], [-0.2 * 32 / 8, 0], atol=1e-5)
    assert np.allclose(flow[owners == 2], [-1.3 * 0.2 * 32 / 8, 0], atol=1e-5)


def test_the_light_is_the_gain_of_the_whole_frame() -> None:
    sitter = Sitter(SOMEBODY, View(64, 60, 32), View(64, 60, 32, light=0.8))
    clip = Clip(GREY, (sitter, Mover(Item("star", "green", 20, 20, 12), Item("star", "green", 20, 20, 12))), 3)
    assert clip.light(1) == pytest.approx(0.9)
    assert np.allclose(clip.frame(2), 0.8 * clip.frame(0), atol=1e-6)
    assert not clip.flow(2).any()
    assert clip.visible(2).all()


def test_clips_show_people_alone_and_with_shapes_behind_and_in_front_of_them() -> None:
    met = set()
    for seed in range(24):
        clip = drawn(seed)
        _, first = sitter_of(clip)
        met.add(len(clip.movers))
        for number, mover in enumerate(clip.movers):
            if isinstance(mover, Mover):
                met.add("behind" if number < first else "in front")
        assert clip.stands_out()
        assert clip.owners(0).max() >= first
    assert met == {1, 2, 3, "behind", "in front"}


def test_somebody_else_moves_alike() -> None:
    rng = np.random.default_rng(5)
    for seed in range(4):
        clip = drawn(seed)
        other = replace(clip, movers=tuple(mover.repainted(rng) for mover in clip.movers))
        assert np.array_equal(clip.owners(3), other.owners(3))
        assert np.array_equal(clip.flow(3), other.flow(3))
        assert not np.allclose(clip.frame(3), other.frame(3), atol=0.05)


def test_a_followed_person_is_right_and_typical_failures_are_not() -> None:
    for case in range(16):
        edit = draw_edit(np.random.default_rng((8, case)), "follow people")
        assert len(edit.sources) == 3
        assert is_right(edit, edit.target)
        assert is_right(edit, np.asarray(cv2.GaussianBlur(edit.target, (0, 0), 0.6)))
        failures = [*edit.sources, np.roll(edit.target, 12, axis=1), between(edit.source, edit.target)]
        # The head is gone, the picture fades, or everybody looks the same.
        gone = np.where(edit.mask[..., None], np.median(edit.target[:8], axis=(0, 1)), edit.target)
        failures += [gone.astype(np.float32), np.full_like(edit.target, edit.target.mean())]
        for failure in failures:
            assert not is_right(edit, failure)


def between(one: Pixels, other: Pixels) -> Pixels:
    return np.asarray((one + other) / 2, dtype=np.float32)


def test_edges_of_a_followed_person_may_be_somebody_elses_and_light_stays() -> None:
    for example in draw_set("people_follows", 1, 6):
        assert example.kind == "follow people"
        edges, first, _ = example.sources
        assert set(np.unique(edges)) == {0.0, 1.0}
        # Far from everything that moves, the ground is as bright as in the first frame.
        still = ~example.mask & (np.abs(first - example.target).max(axis=-1) < 0.02)
        assert still.mean() > 0.2


def test_new_sets_stand_at_the_end_so_that_older_ones_keep_their_seeds() -> None:
    older = ["pairs", "follows", "dots", "portraits", "captions", "wide", "tall", "edges"]
    assert list(SETS)[: len(older)] == older
    assert list(SETS).index("people_follows") >= len(older)
