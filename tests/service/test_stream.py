"""Files that leave while their job goes on."""

from __future__ import annotations

import json
import threading
import tracemalloc
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from darkroom.artifacts import Artifact
from darkroom.errors import UploadFailed
from darkroom.media import encode_image
from darkroom.storage import FolderStore
from darkroom.stream import WAITING, Stream
from darkroom.workers.recipe import Streamed
from darkroom.workers.video.cut import Cut, frame_name
from darkroom.workers.video.footage import Footage


def file(number: int, data: bytes = b"x") -> Streamed:
    return Streamed(lambda: Artifact(f"{number}.bin", "application/octet-stream", data), {"number": number})


def test_what_the_state_names_is_there_and_in_order(tmp_path: Path) -> None:
    store = FolderStore(tmp_path)
    told: list[str] = []
    stream = Stream(store, "job", "hash", lambda entry: told.append(entry["name"]))
    for number in range(6):
        stream.put(file(number))
    assert [entry["name"] for entry in stream.finish()] == told == [f"{n}.bin" for n in range(6)]
    earlier = Stream(store, "job", "hash").earlier()
    assert [(s.entry["name"], s.record["number"]) for s in earlier] == [(f"{n}.bin", n) for n in range(6)]


def test_another_request_and_a_damaged_state_are_no_earlier_try(tmp_path: Path) -> None:
    store = FolderStore(tmp_path)
    stream = Stream(store, "job", "hash")
    stream.put(file(0))
    stream.finish()
    assert Stream(store, "job", "other").earlier() == []
    for damaged in (b"", b"[]", b'{"format": 1}', json.dumps({"format": 1, "request_sha256": "hash"}).encode()):
        store.put("job/state.json", damaged, "application/json")
        assert Stream(store, "job", "hash").earlier() == []


def test_a_file_made_again_replaces_itself_and_all_that_came_after_it(tmp_path: Path) -> None:
    store = FolderStore(tmp_path)
    first = Stream(store, "job", "hash")
    for number in range(4):
        first.put(file(number))
    first.finish()
    second = Stream(store, "job", "hash")
    second.earlier()
    second.put(file(1))
    assert [entry["name"] for entry in second.finish()] == ["0.bin", "1.bin"]


class Failing(FolderStore):
    def put(self, key: str, data: bytes, media_type: str) -> None:
        if key.endswith("2.bin"):
            raise UploadFailed("the disk is full")
        super().put(key, data, media_type)


def test_after_a_failure_nothing_more_is_stored_and_the_job_hears_of_it(tmp_path: Path) -> None:
    stream = Stream(Failing(tmp_path), "job", "hash")
    for number in range(3):
        stream.put(file(number))
    stream.close()
    with pytest.raises(UploadFailed):
        stream.put(file(3))
    with pytest.raises(UploadFailed):
        stream.finish()
    assert stream.told()["stored"] == {"files": 2, "keys": ["job/0.bin", "job/1.bin"]}


class Gated(FolderStore):
    """Takes files only once its gate is open."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.gate = threading.Event()

    def put(self, key: str, data: bytes, media_type: str) -> None:
        self.gate.wait(10)
        super().put(key, data, media_type)


def test_a_slow_store_holds_the_job_up_before_it_fills_the_memory(tmp_path: Path) -> None:
    store = Gated(tmp_path)
    stream = Stream(store, "job", "hash")
    taken: list[int] = []

    def work() -> None:
        for number in range(WAITING + 3):
            stream.put(file(number))
            taken.append(number)

    job = threading.Thread(target=work)
    job.start()
    job.join(0.3)
    assert len(taken) == WAITING
    store.gate.set()
    job.join(10)
    assert len(stream.finish()) == WAITING + 3


def peak_of(frames: int, folder: Path) -> int:
    """Bytes at the worst moment of streaming a clip of noise and cutting its films."""
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 255, (64, 64, 3), dtype=np.uint8)

    def read(first: int) -> Iterator[Image.Image]:
        for number in range(first, frames + 1):
            yield Image.fromarray(np.roll(pixels, number, axis=1)).convert("L")

    stream = Stream(FolderStore(folder / "store"), "job", "hash")
    cut = Cut(folder, Footage(frames, None, (64, 64), False, read, lambda text: None), Fraction(8))

    def shot(number: int) -> Streamed:
        image = Image.fromarray(np.roll(pixels, number, axis=0))

        def encode() -> Artifact:
            data, kind = encode_image(image, "png")
            cut.keep(number, data)
            return Artifact(frame_name(number), kind, data)

        return Streamed(encode, {"row": {"frame": number}})

    tracemalloc.start()
    for number in range(frames + 1):
        stream.put(shot(number))
    for number, made in enumerate((cut.side_by_side, cut.contact_sheet)):
        stream.put(Streamed(made, {"film": number}))
    stream.finish()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak


def test_two_hundred_frames_take_no_more_memory_than_twenty(tmp_path: Path) -> None:
    """A frame has 12 kB of pixels, and as much again as edges: kept, they would be 5 MB. Its lines in the
    state are less than 5 kB, whatever its size.
    """
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    few = peak_of(20, tmp_path / "a")
    many = peak_of(200, tmp_path / "b")
    assert many < few + 180 * 5_000
