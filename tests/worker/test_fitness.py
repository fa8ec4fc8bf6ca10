"""A worker that RunPod bills a GPU for, and that has none, takes no jobs; elsewhere `auto` may choose the CPU."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from runpod.serverless.modules import rp_fitness

from darkroom import service
from darkroom.edge import Edge
from darkroom.errors import GpuFault
from darkroom.models.specs import Card
from darkroom.service import Service
from darkroom.settings import Settings

RUNPOD = "https://api.runpod.ai/v2/abc/job-done/$RUNPOD_POD_ID/$ID?gpu=NVIDIA+L4"
HERE = "http://127.0.0.1:8000/v2/local/job-done/$RUNPOD_POD_ID/$ID?token=x"


@pytest.fixture
def checks(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What the SDK would run at start, in order; a machine without CUDA."""
    registered: list[Any] = []
    monkeypatch.setattr(rp_fitness, "_fitness_checks", registered)
    monkeypatch.setattr(service, "read_card", lambda: None)
    return registered


def edge_of(tmp_path: Path, address: str | None, **settings: Any) -> Edge:
    place = {"store": str(tmp_path / "store"), "spool": tmp_path / "spool", "preload": ""}
    return Edge(Service(Settings(runpod_post_output=address, **place, **settings)))


def test_on_runpod_a_worker_that_sees_no_gpu_fails_before_it_loads_anything(tmp_path: Path, checks: list[Any]) -> None:
    edge_of(tmp_path, RUNPOD, profile="auto").register_fitness_checks()
    with pytest.raises(GpuFault, match=r"no usable GPU.*DARKROOM_PROFILE=pocket"):
        checks[0]()


@pytest.mark.parametrize(("address", "profile"), [(RUNPOD, "pocket"), (HERE, "auto"), (None, "auto")])
async def test_who_asks_for_the_pocket_and_who_is_not_on_runpod_needs_no_gpu(
    tmp_path: Path, checks: list[Any], address: str | None, profile: str
) -> None:
    edge_of(tmp_path, address, profile=profile).register_fitness_checks()
    gpu, store, models = checks
    gpu()
    store()
    await models()


def test_a_card_is_enough(tmp_path: Path, checks: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service, "read_card", lambda: Card(22.0, (8, 9)))
    edge = edge_of(tmp_path, RUNPOD, profile="auto")
    edge.gpu_is_usable()
