"""A video_edit from request to stored clip, in process."""

from __future__ import annotations

import asyncio
import csv
import hashlib
import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from PIL import Image
from torch import Tensor

from darkroom.errors import UploadFailed
from darkroom.models.optical_flow import Dis
from darkroom.models.perceptual import load_pocket
from darkroom.models.specs import CLIP
from darkroom.service import Service
from darkroom.storage import FolderStore
from tests.service.clips import edge_frame, edge_list, frame, movie, picture, png, video_job, zipped
from tests.service.conftest import MakeService, data_uri, stored

FILES = ["contact_sheet.png", "metrics.csv", "metrics.png", "side_by_side.mp4", "video.mp4"]
TIMES = {"guidance_seconds", "frame_seconds"}
GUIDED = {"edge_scale": 1.0, "gram_scale": 0.5, "start_step": 0, "iterations": 1}
MOVING = {"temporal_scale": 1.0, "start_step": 0, "iterations": 1}


def frames_of(tmp_path: Path, job_id: str = "clip-1") -> list[str]:
    """SHA-256 of each stored frame."""
    folder = tmp_path / "store" / job_id / "frames"
    return [hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.glob("*.png"))]


def film(tmp_path: Path, name: str = "video.mp4", job_id: str = "clip-1") -> bytes:
    return (tmp_path / "store" / job_id / name).read_bytes()


def rows_of(tmp_path: Path, job_id: str = "clip-1", times: bool = True) -> list[dict[str, str]]:
    text = (tmp_path / "store" / job_id / "metrics.csv").read_text()
    rows = list(csv.DictReader(io.StringIO(text)))
    return rows if times else [{k: v for k, v in row.items() if k not in TIMES} for row in rows]


def decoded(data: bytes) -> list[Image.Image]:
    with av.open(io.BytesIO(data)) as container:
        return [Image.fromarray(image.to_ndarray(format="rgb24")) for image in container.decode(video=0)]


async def until_stored(service: Service, job: dict[str, Any], frame: int) -> None:
    """Run the job until progress tells that `frame` is stored, then take the worker away."""
    seen = asyncio.Event()

    async def send(payload: dict[str, Any]) -> None:
        if payload.get("file", {}).get("frame", -1) >= frame:
            seen.set()

    task = asyncio.create_task(service.handle(job, send))
    waiting = asyncio.create_task(seen.wait())
    await asyncio.wait([task, waiting], return_when=asyncio.FIRST_COMPLETED)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


# -- the result ---------------------------------------------------------------------------------


async def test_a_clip_has_the_designs_files_and_reply(make_service: MakeService, tmp_path: Path) -> None:
    reply = await make_service().handle(video_job(edges=edge_list(2), num_inference_steps=1, fps=5.0))
    names = [name.removeprefix("clip-1/") for name in stored(tmp_path)]
    assert names == sorted([*FILES, "manifest.json", "state.json", *(f"frames/frame_{i:04d}.png" for i in range(3))])
    assert [file["name"] for file in reply["files"]] == ["video.mp4", "side_by_side.mp4", *sorted(FILES[:3])]
    assert [shot["frame"] for shot in reply["frames"]] == [0, 1, 2]
    assert [shot["sha256"] for shot in reply["frames"]] == frames_of(tmp_path)
    assert reply["video_url"].startswith("data:video/mp4;base64,")
    assert (reply["num_frames"], reply["width"], reply["height"], reply["fps"]) == (3, 128, 128, 5.0)
    assert reply["seed"] == 5
    assert "error" not in reply
    manifest = json.loads(film(tmp_path, "manifest.json"))
    for entry in manifest["files"]:
        assert hashlib.sha256(film(tmp_path, entry["name"])).hexdigest() == entry["sha256"]
    assert len(decoded(film(tmp_path))) == 3
    assert decoded(film(tmp_path, "side_by_side.mp4"))[0].size == (256, 128)
    assert [(row["frame"], row["guided_steps"], row["warp_error"]) for row in rows_of(tmp_path)] == [
        ("1", "0", ""),
        ("2", "0", ""),
    ]


async def test_frame_0_is_the_init_frame(make_service: MakeService, tmp_path: Path) -> None:
    await make_service().handle(video_job(edges=edge_list(1), num_inference_steps=1))
    with Image.open(tmp_path / "store" / "clip-1" / "frames" / "frame_0000.png") as first:
        assert np.array_equal(np.asarray(first), np.asarray(frame(0)))


async def test_scale_0_is_no_guidance_bit_for_bit_and_guidance_is_not(
    make_service: MakeService, tmp_path: Path
) -> None:
    service = make_service()
    zero = {"edge_scale": 0.0, "gram_scale": 0.0, "temporal_scale": 0.0}
    for name, ttlg in (("none", None), ("zero", zero), ("some", GUIDED)):
        reply = await service.handle(video_job(name, edges=edge_list(1), ttlg=ttlg))
        assert "error" not in reply, reply
    assert frames_of(tmp_path, "none") == frames_of(tmp_path, "zero")
    assert frames_of(tmp_path, "none")[1] != frames_of(tmp_path, "some")[1]
    row = rows_of(tmp_path, "some")[0]
    assert int(row["guided_steps"]) == 1  # of two, the last one is never guided
    assert float(row["relative_step"]) > 0


async def test_gradients_go_through_the_transformer_where_asked(make_service: MakeService, tmp_path: Path) -> None:
    service = make_service()
    through = {**GUIDED, "through": "transformer"}
    for name, ttlg in (("vae", GUIDED), ("through", through), ("again", through)):
        reply = await service.handle(video_job(name, edges=edge_list(1), ttlg=ttlg))
        assert "error" not in reply, reply
        assert rows_of(tmp_path, name)[0]["guided_steps"] == "1"
    assert frames_of(tmp_path, "through")[1] != frames_of(tmp_path, "vae")[1]
    assert frames_of(tmp_path, "through") == frames_of(tmp_path, "again")


async def test_a_loss_that_guides_no_step_is_named(make_service: MakeService, tmp_path: Path) -> None:
    """Of two steps the first has noise level 1, outside the Gram loss's window, and the last is never guided."""
    service, words = make_service(), "has no effect: of 2 steps none is in the window, or only the last one"
    for name, window in (("own", {}), ("last", {"last_steps": 1})):
        ttlg = {"gram_scale": 1.0, "temporal_scale": 0.0, **window}
        reply = await service.handle(video_job(name, edges=edge_list(1), ttlg=ttlg))
        assert [note for note in reply["warnings"] if words in note] == [
            f"ttlg.gram_scale {words}, which is never guided"
        ]
        assert rows_of(tmp_path, name)[0]["guided_steps"] == "0"


async def test_a_source_video_gives_edges_and_flow(make_service: MakeService, tmp_path: Path) -> None:
    ttlg = {"temporal_scale": 1.0, "start_step": 0, "iterations": 1}
    reply = await make_service().handle(video_job(source_video=movie(tmp_path, 3), ttlg=ttlg))
    assert reply["num_frames"] == 3
    assert reply["fps"] == 6.0
    assert reply["warnings"] == []
    assert all(float(row["warp_error"]) > 0 for row in rows_of(tmp_path))
    panels = decoded(film(tmp_path, "side_by_side.mp4"))
    assert len(panels) == 3
    assert panels[0].size == (3 * 128, 128)
    source = np.asarray(panels[1].crop((0, 0, 128, 128))).astype(int)
    assert np.abs(source - np.asarray(frame(1))).mean() < 6


async def test_the_temporal_loss_without_flow_is_named(make_service: MakeService) -> None:
    reply = await make_service().handle(video_job(edges=edge_list(1), ttlg={"temporal_scale": 1.0, "start_step": 0}))
    assert any("ttlg.temporal_scale: without source_video" in warning for warning in reply["warnings"])


class NotThePockets:
    """Stands for VGG16 and RAFT: what they compute is the pocket's own."""

    name = "another"

    def __init__(self) -> None:
        encoder, self._flow = load_pocket(), Dis()
        self.features, self.distance = encoder.features, encoder.distance

    def __call__(self, this: Tensor, other: Tensor) -> Tensor:
        return self._flow(this, other)


@pytest.mark.parametrize(
    ("real", "weights", "ttlg", "words"),
    [
        (True, False, GUIDED, ["ttlg.gram_scale and the metrics go by the pocket encoder"]),
        (True, False, None, ["the metrics go by the pocket encoder"]),
        (True, False, MOVING, ["the metrics go by the pocket encoder", "ttlg.temporal_scale goes by the optical flow"]),
        (True, True, {**GUIDED, **MOVING}, []),
        (False, False, {**GUIDED, **MOVING}, []),
    ],
)
async def test_a_real_model_that_is_guided_by_the_pockets_rulers_says_so(
    make_service: MakeService, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    real: bool, weights: bool, ttlg: dict[str, Any] | None, words: list[str],
) -> None:  # fmt: skip
    service = make_service()
    monkeypatch.setattr(service.shelf, "_perceptual", NotThePockets() if weights else load_pocket())
    monkeypatch.setattr(service.shelf, "_optical_flow", NotThePockets() if weights else Dis())
    if real:
        monkeypatch.setattr(service.shelf, "profile", replace(service.shelf.profile, rulers=CLIP))
    reply = await service.handle(video_job(source_video=movie(tmp_path, 2), ttlg=ttlg))
    said = [note for note in reply["warnings"] if "$TORCH_HOME/hub/checkpoints" in note]
    assert len(said) == len(words), reply
    for note, beginning in zip(said, words, strict=True):
        assert note.startswith(beginning)
        assert ".pth is not in" in note


async def test_edges_as_a_list_a_zip_and_a_video_are_the_same_frames(make_service: MakeService, tmp_path: Path) -> None:
    service = make_service()
    lines = {f"e/frame_{i}.png": png_of_edges(i) for i in (10, 9)}
    archive = zipped({**lines, "__MACOSX/e/._frame_9.png": b"x", "notes.txt": b"hello"})
    given = {"list": edge_list(10)[8:], "zip": archive}
    for name, edges in given.items():
        reply = await service.handle(video_job(name, edges=edges, num_inference_steps=1))
        assert "error" not in reply, reply
    assert frames_of(tmp_path, "list") == frames_of(tmp_path, "zip")
    assert reply["warnings"] == ["edges: left out, as no pictures: notes.txt"]
    video = movie(tmp_path, 4, edges=True)
    reply = await service.handle(video_job("video", edges=video, num_inference_steps=1, max_frames=1))
    assert (reply["num_frames"], reply["fps"]) == (2, 6.0)


def png_of_edges(number: int) -> bytes:
    return png(Image.open(io.BytesIO(base64_of(edge_frame(number)))).convert("RGB"))


def base64_of(uri: str) -> bytes:
    import base64

    return base64.b64decode(uri.split(",", 1)[1])


async def test_any_aspect_and_frames_of_another_one_are_stretched_and_told(
    make_service: MakeService, tmp_path: Path
) -> None:
    edges = [edge_frame(1, (200, 100)), edge_frame(2, (80, 80))]
    reply = await make_service().handle(
        video_job(init_image=picture(0, (200, 100)), edges=edges, num_inference_steps=1)
    )
    assert (reply["width"], reply["height"]) == (192, 96)
    assert reply["warnings"] == [
        "edges[1]: 80 × 80 is not the size of init_image, 200 × 100; frames like it were stretched to 192 × 96"
    ]
    with Image.open(tmp_path / "store" / "clip-1" / "frames" / "frame_0002.png") as last:
        assert last.size == (192, 96)


async def test_progress_carries_each_frames_link(make_service: MakeService) -> None:
    told: list[dict[str, Any]] = []

    async def send(payload: dict[str, Any]) -> None:
        told.append(payload)

    service = make_service(public_url="https://files.test", progress_seconds=0.001)
    reply = await service.handle(video_job(edges=edge_list(3)), send)
    links = {note["file"]["frame"]: note["file"]["url"] for note in told if "frame" in note.get("file", {})}
    assert links[1] == "https://files.test/clip-1/frames/frame_0001.png"
    assert reply["frames"][1]["url"] == links[1]
    steps = [note for note in told if note["stage"] == "denoise"]
    assert steps[-1]["total"] == 6
    assert {"frame", "frames", "step", "steps"} <= set(steps[0])


# -- taken over ---------------------------------------------------------------------------------


async def test_a_worker_killed_between_frames_costs_no_finished_frame_and_changes_no_byte(
    make_service: MakeService, tmp_path: Path
) -> None:
    """Also with a seed that was drawn; the second worker finds nothing but the store."""
    job = video_job(edges=edge_list(3), seed=-1, ttlg=GUIDED)
    await until_stored(make_service(progress_seconds=0.001), job, 1)
    state = json.loads(film(tmp_path, "state.json"))
    done = len(state["stored"])
    assert 2 <= done < 4 + len(FILES)
    before = frames_of(tmp_path)
    reply = await make_service().handle(job)
    assert any(f"went on after frame {min(done, 4) - 1}" in warning for warning in reply["warnings"])
    assert frames_of(tmp_path)[: len(before)] == before
    whole = await make_service().handle(video_job("whole", edges=edge_list(3), seed=reply["seed"], ttlg=GUIDED))
    assert "error" not in whole
    assert frames_of(tmp_path) == frames_of(tmp_path, "whole")
    for name in ("video.mp4", "side_by_side.mp4"):
        assert film(tmp_path, name) == film(tmp_path, name, "whole")
    assert rows_of(tmp_path, times=False) == rows_of(tmp_path, "whole", times=False)


async def test_the_same_key_under_another_job_id_goes_on_too(make_service: MakeService, tmp_path: Path) -> None:
    fields = {"edges": edge_list(3), "idempotency_key": "key-1"}
    await until_stored(make_service(progress_seconds=0.001), video_job("first", **fields), 1)
    reply = await make_service().handle(video_job("second", **fields))
    assert any("went on after frame" in warning for warning in reply["warnings"])
    assert reply["frames"][3]["key"] == "first/frames/frame_0003.png"
    other = await make_service().handle(video_job("third", **{**fields, "seed": 6}))
    assert (other["code"], other["details"]["field"]) == ("INVALID_INPUT", "idempotency_key")
    again = await make_service().handle(video_job("fourth", **fields))
    assert again["frames"] == reply["frames"]


async def test_a_damaged_stored_frame_is_made_again(make_service: MakeService, tmp_path: Path) -> None:
    job = video_job(edges=edge_list(2), num_inference_steps=1)
    await make_service().handle(job)
    good = frames_of(tmp_path)
    (tmp_path / "store" / "clip-1" / "frames" / "frame_0001.png").write_bytes(b"half a fra")
    (tmp_path / "store" / "clip-1" / "manifest.json").unlink()
    assert "error" not in await make_service().handle(job)
    assert frames_of(tmp_path) == good


class Breaking(FolderStore):
    """A folder that takes no frame from number `at` on."""

    at = 2

    def put(self, key: str, data: bytes, media_type: str) -> None:
        if key.endswith(f"frame_{self.at:04d}.png"):
            raise UploadFailed("the disk is full")
        super().put(key, data, media_type)


async def test_a_store_that_fails_midway_keeps_what_it_has_and_the_retry_goes_on(
    make_service: MakeService, tmp_path: Path
) -> None:
    job = video_job(edges=edge_list(3), num_inference_steps=1)
    service = make_service()
    service.store = Breaking(tmp_path / "store")
    failed = await service.handle(job)
    assert (failed["code"], failed["retryable"]) == ("UPLOAD_FAILED", True)
    keys = ["clip-1/frames/frame_0000.png", "clip-1/frames/frame_0001.png"]
    assert failed["details"]["stored"] == {"files": 2, "keys": keys}
    retried = await make_service().handle(job)
    assert any("went on after frame 1" in warning for warning in retried["warnings"])
    assert len(retried["frames"]) == 4


# -- bad input ----------------------------------------------------------------------------------


async def test_an_unreadable_frame_is_named_by_number_and_the_frames_before_it_are_kept(
    make_service: MakeService, tmp_path: Path
) -> None:
    edges = edge_list(50)
    edges[2] = data_uri(base64_of(edges[2])[:60], "image/png")
    reply = await make_service().handle(video_job(edges=edges, num_inference_steps=1))
    assert (reply["code"], reply["details"]["field"]) == ("DECODE_FAILED", "edges[2]")
    assert "(frame 3; the 3 frames before it are kept)" in reply["error"]
    assert reply["details"]["frame"] == 3
    assert reply["details"]["stored"]["files"] == 3
    assert len(frames_of(tmp_path)) == 3


async def test_guidance_that_leaves_the_numbers_stops_with_frame_and_step(
    make_service: MakeService, tmp_path: Path
) -> None:
    wild = {"edge_scale": 100.0, "lr": 10.0, "iterations": 20, "start_step": 1}
    reply = await make_service().handle(video_job(edges=edge_list(2), num_inference_steps=3, ttlg=wild))
    assert (reply["code"], reply["details"]["field"], reply["retryable"]) == ("INVALID_INPUT", "ttlg", False)
    assert (reply["details"]["frame"], reply["details"]["step"]) == (1, 1)
    assert "is not finite at frame 1, step 1" in reply["error"]
    assert len(frames_of(tmp_path)) == 1


def silent_movie(folder: Path) -> str:
    """An MP4 with sound alone."""
    path = folder / "sound.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=44_100)
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        sound.sample_rate = 44_100
        container.mux(stream.encode(sound))
        container.mux(stream.encode())
    return data_uri(path.read_bytes(), "video/mp4")


@pytest.mark.parametrize(
    ("what", "code", "words"),
    [
        ("empty zip", "INVALID_INPUT", "edges is a zip without pictures: a.txt"),
        ("single picture", "DECODE_FAILED", "edges is neither a zip of pictures nor a video"),
        ("sound", "INVALID_INPUT", "source_video holds no video, only other tracks"),
        ("one frame", "INVALID_INPUT", "source_video has only one frame, which stands for init_image"),
        ("text", "DECODE_FAILED", "source_video is no video of a known kind"),
        ("too many", "INPUT_TOO_LARGE", "edges has more than 3 frames, the limit"),
        ("last_steps", "INVALID_INPUT", "ttlg.last_steps: 9 is more than the run's 8 steps"),
    ],
)
async def test_clips_that_cannot_be(
    make_service: MakeService, tmp_path: Path, what: str, code: str, words: str
) -> None:
    fields: dict[str, Any] = {
        "empty zip": {"edges": zipped({"a.txt": b"x"})},
        "single picture": {"edges": picture()},
        "sound": {"source_video": silent_movie(tmp_path)},
        "one frame": {"source_video": movie(tmp_path, 1)},
        "text": {"source_video": data_uri(b"#EXTM3U\nhttp://127.0.0.1/", "video/mp4")},
        "too many": {"edges": zipped({f"{i}.png": b"x" for i in range(4)})},
        "last_steps": {
            "edges": edge_list(1),
            "num_inference_steps": None,
            "ttlg": {"edge_scale": 1.0, "last_steps": 9},
        },
    }[what]
    reply = await make_service(max_frames=3).handle(video_job(**fields))
    assert reply["code"] == code, reply
    assert words in reply["error"]
    assert stored(tmp_path) == []
