"""A streaming job that is cancelled while its sources come or are prepared ends at once; its folder goes later."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Callable
from pathlib import Path
from threading import Event
from typing import Any

import pytest

from darkroom import service, sources
from darkroom.artifacts import Artifact
from darkroom.workers import Progress, Recipe, Streamed, Work
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


def test_a_worker_that_ends_meanwhile_leaves_no_folder_either(tmp_path: Path) -> None:
    worker = """
        import asyncio, tempfile, time
        from concurrent.futures import ThreadPoolExecutor
        from sys import argv
        from threading import Event
        from darkroom.scratch import Scratch

        tempfile.tempdir = argv[1]

        async def job():
            with Scratch(ThreadPoolExecutor(1)) as scratch:
                def fetch():
                    begun.set()
                    for number in range(1000):
                        (scratch.folder / str(number)).write_bytes(b"x")
                    time.sleep(0.2)
                await scratch.work(fetch)

        async def main():
            job_at_work = asyncio.create_task(job())
            await asyncio.to_thread(begun.wait)
            job_at_work.cancel()
            await asyncio.wait([job_at_work])
            print(job_at_work.cancelled())

        begun = Event()
        asyncio.run(main())
    """
    command = [sys.executable, "-c", textwrap.dedent(worker), str(tmp_path)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (ended.returncode, ended.stdout.strip(), ended.stderr) == (0, "True", "")
    assert list(tmp_path.iterdir()) == []


async def test_after_a_second_cancel_the_folder_waits_for_the_frames_that_are_on_their_way(
    make_service: MakeService, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "here"))
    (tmp_path / "here").mkdir()
    busy, worker = Busy(), make_service()

    def start(job: Any, desk: Any) -> Work:
        def encode() -> Artifact:
            busy.work(desk.folder)
            return Artifact("frame.png", "image/png", b"x")

        yield Streamed(encode)
        while True:
            yield Progress("denoise", 0, 1)

    monkeypatch.setattr(service, "recipe", lambda _: Recipe(start, streams=True))
    job = asyncio.create_task(worker.handle(video_job(edges=edge_list(1))))
    await until(busy.begun.is_set)
    job.cancel()
    await asyncio.sleep(0.2)  # the recipe is dropped; the job waits for the frame
    assert not job.done()
    job.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(job, 10)
    written = busy.written
    await until(lambda: busy.written > written)
    busy.may_end.set()
    await until(lambda: not any((tmp_path / "here").glob("darkroom-*")))
