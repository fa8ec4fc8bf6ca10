"""What a video_edit may ask for."""

from __future__ import annotations

from typing import Any

import pytest

from darkroom.errors import BadJob
from darkroom.jobs import Limits, VideoEdit, frame_seed, parse

LIMITS = Limits(max_frames=100)


def asked(**fields: Any) -> VideoEdit:
    job = parse({"type": "video_edit", "init_image": "https://a.test/i.png", **fields}, LIMITS)
    assert isinstance(job, VideoEdit)
    return job


@pytest.mark.parametrize(
    ("fields", "field", "words"),
    [
        ({}, "edges", "give edges (a list of pictures, a zip or a video) or source_video"),
        ({"edges": "x", "source_video": "y"}, "edges", "not both"),
        ({"edges": []}, "edges", "at least one edge frame"),
        ({"edges": ["x"] * 10_000}, "edges", "10,000 frames, the limit is 100"),
        ({"edges": ["x", 3]}, "edges[1]", "valid string, got 3"),
        ({"edges": "x", "max_frames": 101}, "max_frames", "at most 100"),
        ({"edges": "x", "prompt": " "}, "prompt", "empty"),
        ({"edges": "x", "size": "64*64"}, "size", "frames have the shape of init_image"),
        ({"edges": "x", "fps": 0.0}, "fps", "greater than or equal to 0.1"),
        ({"edges": "x", "ttlg": {"edge_scale": -1.0}}, "ttlg.edge_scale", "greater than or equal to 0, got -1.0"),
        ({"edges": "x", "ttlg": {"edge_scale": float("nan")}}, "ttlg.edge_scale", "finite"),
        ({"edges": "x", "ttlg": {"lr": 0.1}}, "ttlg", "nothing would guide"),
        ({"edges": "x", "ttlg": {"edge_scal": 1.0}}, "ttlg.edge_scal", "extra"),
        (
            {"edges": "x", "ttlg": {"edge_scale": 1.0, "start_step": 5, "end_step": 3}},
            "ttlg.start_step",
            "step 5 comes after end_step 3",
        ),
        (
            {"edges": "x", "num_inference_steps": 8, "ttlg": {"edge_scale": 1.0, "last_steps": 9}},
            "ttlg.last_steps",
            "9 is more than the run's 8 steps",
        ),
        (
            {"edges": "x", "num_inference_steps": 8, "ttlg": {"edge_scale": 1.0, "end_step": 8}},
            "ttlg.end_step",
            "outside the run's steps 0…7",
        ),
    ],
)
def test_what_cannot_be_is_refused_by_name(fields: dict[str, Any], field: str, words: str) -> None:
    with pytest.raises(BadJob) as refused:
        asked(**fields)
    assert refused.value.field == field
    assert words in refused.value.message


def test_sources_are_fetched_as_far_as_frames_are_wanted() -> None:
    job = asked(edges=["a", "b", "c"], max_frames=2)
    assert list(job.sources()) == ["init_image", "edges[0]", "edges[1]"]
    assert asked(edges="z").clip_sources() == {"edges": "z"}
    assert asked(source_video="v").clip_sources() == {"source_video": "v"}


def test_all_scales_0_are_allowed_and_guide_nothing() -> None:
    job = asked(edges="x", ttlg={"edge_scale": 0, "gram_scale": 0.0})
    assert job.ttlg is not None
    assert not job.ttlg.active


def test_a_frames_seed_is_the_documented_hash_and_no_other() -> None:
    assert frame_seed(0, 1) == 2970253689385304826
    assert frame_seed(2**63 - 1, 2_000) == 2138653314748624434
    assert len({frame_seed(seed, frame) for seed in range(50) for frame in range(50)}) == 2_500
