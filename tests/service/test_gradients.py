"""What needs gradients through the transformer is refused at the start where none, or wrong ones, go through it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from tests.service import test_bridge_train, test_injection
from tests.service.clips import edge_list, video_job
from tests.service.conftest import MakeService

JOBS = {
    "ttlg.through": video_job(edges=edge_list(1), ttlg={"edge_scale": 1.0, "through": "transformer"}),
    "objective": test_injection.train_job(objective="flow"),
    "flow_epochs": test_bridge_train.train_job(test_bridge_train.triples()),
}


@pytest.mark.parametrize("field", list(JOBS))
@pytest.mark.parametrize("worker", [{"precision": "fp8"}, {"precision": "int8"}, {"gpus": 2}], ids=str)
async def test_it_is_named_with_the_way_out(
    make_service: MakeService, monkeypatch: pytest.MonkeyPatch, field: str, worker: dict[str, Any]
) -> None:
    service = make_service()
    monkeypatch.setattr(service.shelf, "profile", replace(service.shelf.profile, **worker))
    reply = await service.handle(JOBS[field])
    assert (reply["code"], reply["details"]["field"]) == ("INVALID_INPUT", field)
    assert "DARKROOM_GPUS" in reply["error"] if "gpus" in worker else worker["precision"] in reply["error"]
