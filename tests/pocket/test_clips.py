"""Clips are known exactly: flow, visibility, edges; and a frame that does not follow is told apart."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from PIL import Image

from darkroom import media
from darkroom.pocket.evaluate import held_out
from darkroom.pocket.judging.rules import edge_f1, is_right
from darkroom.pocket.world.clips import draw_clip
from darkroom.pocket.world.edges import edge_map
from darkroom.pocket.world.edits import draw_edit
from darkroom.pocket.world.scenes import draw_scene


@pytest.mark.parametrize("seed", range(6))
def test_a_frame_is_the_one_before_it_moved_along_the_flow_where_both_show_it(seed: int) -> None:
    clip = draw_clip(np.random.default_rng(seed), 6, 160, 128)
    for t in (1, 3, 5):
        rows, columns = np.indices((128, 160)).astype(np.float32)
        flow = clip.flow(t)
        warped = cv2.remap(clip.frame(t - 1), columns + flow[..., 0], rows + flow[..., 1], cv2.INTER_LINEAR)
        # Pixels that are part one shape and part another move with neither.
        pure = cv2.erode(clip.visible(t).astype(np.uint8), np.ones((5, 5), np.uint8)) > 0
        assert np.abs(warped - clip.frame(t))[pure].max() < 0.02 or np.abs(warped - clip.frame(t))[pure].mean() < 0.002
        assert clip.visible(t).mean() > 0.85


def test_what_comes_out_from_behind_a_shape_was_not_visible() -> None:
    for seed in range(10):
        clip = draw_clip(np.random.default_rng(seed), 4)
        uncovered = (clip.owners(2) < 0) & (clip.owners(1) >= 0)
        assert not (clip.visible(2) & uncovered).any()


def test_jobs_and_training_draw_the_same_edges() -> None:
    levels = np.round(draw_scene(np.random.default_rng(2), 192, 128).render() * 255).astype(np.uint8)
    ours = edge_map(levels.astype(np.float32) / 255)
    theirs = np.asarray(media.edge_map(Image.fromarray(levels)))
    assert np.array_equal(np.round(ours * 255), theirs)


def test_a_followed_frame_is_right_and_copies_of_what_was_given_are_not() -> None:
    for case in range(10):
        edit = draw_edit(np.random.default_rng((8, case)), "follow")
        assert len(edit.sources) == 3
        assert is_right(edit, edit.target)
        assert is_right(edit, np.asarray(cv2.GaussianBlur(edit.target, (0, 0), 0.6)))
        assert not any(is_right(edit, given) for given in edit.sources)
        assert not is_right(edit, np.roll(edit.target, 12, axis=1))


@pytest.mark.parametrize(
    ("case", "words", "means"),
    [
        (0, "draw the picture following the edges", (0.02429, 0.5747, 0.57943, 0.57486)),
        (7, "draw the picture following the edges", (0.04224, 0.27023, 0.26988, 0.26956)),
        (23, "draw the next frame following the edges", (0.01508, 0.47743, 0.48007, 0.47759)),
    ],
)
def test_held_out_cases_stay_what_they_were(case: int, words: str, means: tuple[float, ...]) -> None:
    edit = held_out("follow", case)
    assert edit.instruction == words
    found = [float(picture.mean()) for picture in (*edit.sources, edit.target)]
    assert found == pytest.approx(means, abs=1e-4)


def test_edges_are_judged_by_lines_and_not_by_brightness() -> None:
    for case in range(10):
        edit = draw_edit(np.random.default_rng((9, case)), "edges")
        assert is_right(edit, edit.target)
        assert is_right(edit, np.roll(edit.target, 1, axis=0))
        for failure in (edit.source, 1 - edit.target, np.zeros_like(edit.target), np.ones_like(edit.target)):
            assert not is_right(edit, failure)


def test_edge_f1_counts_both_what_is_missed_and_what_is_too_much() -> None:
    line = np.zeros((32, 32), dtype=np.bool_)
    line[16] = True
    half = line & (np.arange(32) < 16)
    assert edge_f1(line, line) == 1
    assert edge_f1(half, line) < 0.75
    assert edge_f1(line | line.T, line) < 0.8
    assert edge_f1(np.zeros_like(line), line) == 0
