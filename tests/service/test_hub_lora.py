"""A LoRA by its id on the hub: downloaded before the job's turn, told as it goes, given up with the job."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import constants

from darkroom.models.hub import unheard
from darkroom.models.lora import downloaded
from darkroom.models.presets import LoraFile
from darkroom.service import Service
from tests.fakes import hub
from tests.fakes.hub import Hub
from tests.fakes.loras import random_lora_bytes
from tests.service.conftest import MakeService, edit_job

ID = "someone/styles/ink.safetensors"
PIECE = 4096


@pytest.fixture
def store_of_loras(first_service: Service, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    data = random_lora_bytes(first_service.shelf.editor("edit").transformer, strength=0.3)
    pieces = [data[start : start + PIECE] for start in range(0, len(data), PIECE)]
    with hub.serve("/someone/styles/resolve/main/ink.safetensors", pieces) as running:
        monkeypatch.setattr(constants, "ENDPOINT", running.base)
        template = running.base + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
        monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", PIECE)
        monkeypatch.setattr(constants, "HF_HUB_DOWNLOAD_TIMEOUT", 60)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setenv("HF_TOKEN", "the-owners")
        yield running


def files_in(folder: Path) -> list[str]:
    return [path.name for path in folder.rglob("*") if path.is_file() and path.stat().st_size >= PIECE]


async def downloading(service: Service, job: dict[str, Any], heard: list[dict[str, Any]]) -> asyncio.Task[Any]:
    """The job's task, once the download has been heard of."""
    begun = asyncio.Event()

    async def send(payload: dict[str, Any]) -> None:
        heard.append(payload)
        begun.set()

    task = asyncio.create_task(service.handle(job, send))
    await asyncio.wait_for(begun.wait(), 60)
    return task


async def test_another_job_runs_while_a_lora_comes_which_then_is_worn_as_one_of_the_folder(
    make_service: MakeService, store_of_loras: Hub, tmp_path: Path
) -> None:
    service, heard = make_service(lora_dir=tmp_path, progress_seconds=0.001), list[dict[str, Any]]()
    waiting = await downloading(service, edit_job("hub", loras=[{"path": ID}]), heard)
    plain = await service.handle(edit_job("plain"))
    assert not waiting.done()
    assert heard[0] == {"stage": "download", "done": 0, "total": heard[0]["total"], "file": ID, "unit": "MiB"}
    store_of_loras.open()
    reply = await waiting
    (tmp_path / "ink.safetensors").write_bytes(b"".join(store_of_loras.pieces))
    same = await service.handle(edit_job("folder", loras=[{"path": "ink.safetensors"}]))
    assert reply["images"][0]["sha256"] == same["images"][0]["sha256"] != plain["images"][0]["sha256"]
    requests = len(store_of_loras.tokens)
    again = await service.handle(edit_job("cached", loras=[{"path": ID}]))
    assert (again["images"][0]["sha256"], len(store_of_loras.tokens)) == (same["images"][0]["sha256"], requests)
    assert set(store_of_loras.tokens) == {None}, "a caller's choice must not be opened with the owner's token"


async def test_a_cancelled_job_ends_its_download_and_leaves_nothing_of_it(
    make_service: MakeService, store_of_loras: Hub, tmp_path: Path
) -> None:
    service = make_service(progress_seconds=0.001)
    waiting = await downloading(service, edit_job("hub", loras=[{"path": ID}]), [])
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert service.active == 0
    async with asyncio.timeout(60):
        while not store_of_loras.hung_up.is_set():
            store_of_loras.more.release()
            await asyncio.sleep(0.2)
        while files_in(tmp_path / "hub"):
            await asyncio.sleep(0.01)


async def test_what_the_owner_has_downloaded_is_not_a_callers_to_wear(
    make_service: MakeService, store_of_loras: Hub, tmp_path: Path
) -> None:
    private = LoraFile("owner/private", "secret.safetensors")
    snapshot = tmp_path / "hub" / "models--owner--private" / "snapshots" / hub.COMMIT
    snapshot.mkdir(parents=True)
    (snapshot / private.file).write_bytes(b"".join(store_of_loras.pieces))
    (snapshot.parents[1] / "refs").mkdir()
    (snapshot.parents[1] / "refs" / "main").write_text(hub.COMMIT)
    assert downloaded(private, "preset", None, unheard) == snapshot / private.file
    reply = await make_service().handle(edit_job("a", loras=[{"path": "owner/private/secret.safetensors"}]))
    assert (reply["code"], reply["details"]["field"]) == ("INVALID_INPUT", "loras[0].path")


async def test_a_lora_kept_from_before_obeys_a_limit_that_has_come_down(
    make_service: MakeService, store_of_loras: Hub
) -> None:
    store_of_loras.open()
    assert (await make_service().handle(edit_job("a", loras=[{"path": ID}])))["images"]
    large = await make_service(max_lora_mib=0.001).handle(edit_job("b", loras=[{"path": ID}]))
    assert (large["code"], large["details"]["field"]) == ("INPUT_TOO_LARGE", "loras[0].path")


async def test_a_lora_that_is_not_on_the_hub_or_too_large_is_named(
    make_service: MakeService, store_of_loras: Hub
) -> None:
    missing = await make_service().handle(edit_job("a", loras=[{"path": "someone/styles/other.safetensors"}]))
    assert (missing["code"], missing["details"]["field"]) == ("INVALID_INPUT", "loras[0].path")
    large = await make_service(max_lora_mib=0.001).handle(edit_job("b", loras=[{"path": ID}]))
    assert (large["code"], large["details"]["field"]) == ("INPUT_TOO_LARGE", "loras[0].path")
