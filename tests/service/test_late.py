"""A packed model's transformer that is still loading, or does not come, while a job encodes already."""

from __future__ import annotations

import asyncio
import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from darkroom.errors import ModelNotReady
from darkroom.models import packing
from darkroom.models.editor import Editor
from darkroom.models.packing import loading
from darkroom.models.shelf import Shelf
from darkroom.models.specs import ModelSpec
from darkroom.service import Service
from tests.service.clips import edge_list, video_job
from tests.service.conftest import MakeService, edit_job

OPEN_SECONDS = 60.0
"""A test that would wait for ever fails after this."""


@pytest.fixture(scope="module")
def artifact(family: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("packed") / "edit"
    packing.pack(ModelSpec(str(family)), out, "pocket", "float32")
    return out


class Gate:
    """No byte of a transformer is read while it is shut. events: what happened, in order."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.events: list[str] = []
        self._open = threading.Event()
        stream, reference = loading.stream, Editor.reference

        def gated(folder: Path, file: Any, *rest: Any) -> Any:
            if file.name.startswith("transformer/"):
                assert self._open.wait(OPEN_SECONDS), "the gate was never opened"
                self.events.append("transformer read")
            return stream(folder, file, *rest)

        def noted(editor: Editor, *images: Any, **more: Any) -> Any:
            self.events.append("encode begun")
            return reference(editor, *images, **more)

        monkeypatch.setattr(loading, "stream", gated)
        monkeypatch.setattr(Editor, "reference", noted)

    def open(self) -> None:
        self._open.set()


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Iterator[Gate]:
    gate = Gate(monkeypatch)
    yield gate
    gate.open()


@pytest.fixture
def make_packed(make_service: MakeService, artifact: Path) -> Callable[..., Service]:
    """A service over the artifact, with nothing loaded."""

    def make(folder: Path = artifact, **settings: Any) -> Service:
        service = make_service(edit_model=str(folder), **settings)
        service.shelf = Shelf(service.profile)
        return service

    return make


async def loading_heard(service: Service, job: dict[str, Any]) -> asyncio.Task[dict[str, Any]]:
    """The job's task, once it waits for the transformer."""
    waiting = asyncio.Event()

    async def send(payload: dict[str, Any]) -> None:
        if payload["stage"] == "load":
            waiting.set()

    task = asyncio.create_task(service.handle(job, send))
    await asyncio.wait_for(waiting.wait(), OPEN_SECONDS)
    return task


async def test_a_job_encodes_before_the_transformer_is_read_and_its_picture_is_the_same(
    make_service: MakeService, make_packed: Callable[..., Service], gate: Gate
) -> None:
    service = make_packed()
    task = await loading_heard(service, edit_job("late"))
    state = service.shelf.report()["models"]["edit"]["state"]
    gate.open()
    reply = await task
    assert (gate.events[0], state) == ("encode begun", "loading")
    assert reply["timings"]["cold"] is True
    assert service.shelf.report()["models"]["edit"]["state"] == "warm"
    whole = await make_service().handle(edit_job("whole"))
    assert reply["images"][0]["sha256"] == whole["images"][0]["sha256"]


async def test_a_clips_first_frame_is_encoded_before_the_transformer_is_read_and_the_clip_is_the_same(
    make_service: MakeService, make_packed: Callable[..., Service], artifact: Path, gate: Gate
) -> None:
    fields = {"edges": edge_list(2), "ttlg": {"edge_scale": 1.0, "gram_scale": 0.0, "temporal_scale": 0.0}}
    task = await loading_heard(make_packed(video_model=str(artifact)), video_job("late", **fields))
    assert gate.events == ["encode begun"]
    gate.open()
    late, whole = await task, await make_service().handle(video_job("whole", **fields))
    assert [frame["sha256"] for frame in late["frames"]] == [frame["sha256"] for frame in whole["frames"]]
    assert late["timings"]["cold"] is True


async def test_a_cancel_is_heard_while_the_transformer_loads_and_the_next_job_goes_on_with_it(
    make_packed: Callable[..., Service], gate: Gate
) -> None:
    service = make_packed()
    task = await loading_heard(service, edit_job("gone"))
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert "transformer read" not in gate.events
    gate.open()
    assert (await service.handle(edit_job("next")))["timings"]["cold"] is True
    assert gate.events.count("transformer read") == 1


async def test_the_time_limit_holds_while_the_transformer_loads(
    make_packed: Callable[..., Service], gate: Gate
) -> None:
    reply = await make_packed(job_seconds=0.5).handle(edit_job())
    assert reply["code"] == "TIMEOUT"
    assert "transformer read" not in gate.events


async def test_a_transformer_that_turns_out_damaged_ends_the_job_and_a_mended_one_loads(
    make_packed: Callable[..., Service], artifact: Path, tmp_path: Path, gate: Gate
) -> None:
    folder = Path(shutil.copytree(artifact, tmp_path / "harmed"))
    file = folder / "transformer" / "00001.safetensors"
    whole = file.read_bytes()
    file.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    service = make_packed(folder)
    task = await loading_heard(service, edit_job("bad"))
    gate.open()
    reply = await task
    assert (reply["code"], reply["retryable"]) == ("MODEL_NOT_READY", True)
    assert "transformer/00001.safetensors is damaged" in reply["error"]
    report = service.shelf.report()
    assert report["models"]["edit"]["state"] == "failed"
    assert report["parts_gib"] == 0
    file.write_bytes(whole)
    assert (await service.handle(edit_job("good")))["images"]


def test_a_model_that_fails_is_given_up_when_nothing_of_it_loads_any_more(
    make_packed: Callable[..., Service], artifact: Path, tmp_path: Path, gate: Gate
) -> None:
    folder = Path(shutil.copytree(artifact, tmp_path / "harmed"))
    (folder / "vae" / "00001.safetensors").unlink()
    shelf = make_packed(folder).shelf
    threading.Timer(0.5, gate.open).start()
    with pytest.raises(ModelNotReady, match=r"vae/00001\.safetensors is missing"):
        shelf.editor("edit", whole=False)
    assert "transformer read" in gate.events


async def test_a_device_that_is_full_when_the_transformer_comes_says_so_and_the_worker_goes_on(
    make_packed: Callable[..., Service], monkeypatch: pytest.MonkeyPatch
) -> None:
    stream = loading.stream

    def full(folder: Path, file: Any, *rest: Any) -> Any:
        if file.name.startswith("transformer/"):
            raise torch.OutOfMemoryError("no memory left")
        return stream(folder, file, *rest)

    service = make_packed()
    with monkeypatch.context() as patch:
        patch.setattr(loading, "stream", full)
        assert (await service.handle(edit_job("full")))["code"] == "OUT_OF_MEMORY"
    assert not service.shelf.is_warm("edit")
    assert (await service.handle(edit_job("next")))["images"]


def test_another_model_waits_for_the_one_that_is_loading_and_outlives_its_failure(
    make_packed: Callable[..., Service], artifact: Path, tmp_path: Path, gate: Gate
) -> None:
    folder = Path(shutil.copytree(artifact, tmp_path / "harmed"))
    (folder / "transformer" / "00001.safetensors").unlink()
    shelf = make_packed(folder).shelf
    assert not shelf.editor("edit", whole=False).whole
    gate.open()
    assert shelf.editor("video").whole
    states = {role: state["state"] for role, state in shelf.report()["models"].items()}
    assert (states["edit"], states["video"]) == ("failed", "warm")
