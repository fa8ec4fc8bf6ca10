"""A streaming job that is cancelled while its sources come or are prepared ends at once; its folder goes later."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Callable
from pathlib import Path
from threading import Event
from typing import Any

import pytest

from darkroom import service, sources
from darkroom.workers import Recipe
from tests.service.clips import edge_list, video_job
from tests.service.conftest import MakeService


class Busy:
    """Writes files into a folder, as a download does, until it may end."""

    def __init__(self) -> None:
        self.begun, self.may_end, self.written = Event(), Event(), 0

    def work(self, folder: Path) -> None:
        while not self.may_end.wait(0.001):
            (folder / f"source-{self.written}").write_bytes(b"x")
            self.written += 1
            self.begun.set()


async def until(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not true():
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("phase", ["fetch", "prepare"])
async def test_a_cancel_leaves_no_folder_and_is_no_error(
    make_service: MakeService, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, phase: str
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "here"))
    (tmp_path / "here").mkdir()
    busy, worker = Busy(), make_service()

    def prepare(job: Any, desk: Any) -> None:
        busy.work(desk.folder)

    def fetch(job: Any, limits: Any, settings: Any, store: Any, folder: Path) -> dict[str, bytes]:
        busy.work(folder)
        return {}

    if phase == "fetch":
        monkeypatch.setattr(sources, "fetch_files", fetch)
    else:
        recipe = Recipe(lambda job, desk: iter(()), prepare=prepare, streams=True)
        monkeypatch.setattr(service, "recipe", lambda _: recipe)
    job = asyncio.create_task(worker.handle(video_job(edges=edge_list(1))))
    await until(busy.begun.is_set)
    job.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(job, 10)
    written = busy.written
    await until(lambda: busy.written > written)  # the thread has a folder as long as it works
    busy.may_end.set()
    await until(lambda: not any((tmp_path / "here").glob("darkroom-*")))
