"""An evaluation from request to report: files, scores, and what is refused."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from darkroom.models.specs import ModelSpec
from darkroom.service import Service
from tests.service.conftest import MakeService, stored


@pytest.fixture(autouse=True)
def vision(first_service: Service, vision_folder: Path) -> Iterator[None]:
    """The random Qwen3-VL on the shelf that all services share."""
    shelf = first_service.shelf
    before = shelf.profile
    shelf.profile = replace(before, models={**before.models, "vision": ModelSpec(str(vision_folder))})
    yield
    shelf.evict("vision")
    shelf.profile = before


def evaluate_job(**fields: Any) -> dict[str, Any]:
    given = {
        "type": "bridge_evaluate",
        "bridge": "untrained",
        "suites": ["detail", "marks"],
        "cases": 2,
        "seeds": 1,
        "num_inference_steps": 1,
        "true_cfg_scale": 1.0,
        **fields,
    }
    return {"id": "job-1", "input": given}


async def test_untrained_every_difference_is_zero_and_all_files_are_there(
    make_service: MakeService, tmp_path: Path
) -> None:
    reply = await make_service().handle(evaluate_job())
    assert "error" not in reply, reply
    assert stored(tmp_path) == [
        "job-1/detail/case_0000.png",
        "job-1/detail/case_0001.png",
        "job-1/detail/scores.csv",
        "job-1/full_evaluation/report.html",
        "job-1/manifest.json",
        "job-1/marks/case_0000.png",
        "job-1/marks/case_0001.png",
        "job-1/marks/scores.csv",
        "job-1/scores.json",
    ]
    job = tmp_path / "store" / "job-1"
    scores = json.loads((job / "scores.json").read_text())["scores"]
    assert {suite: set(rulers) for suite, rulers in scores.items()} == {
        "detail": {"psnr", "ssim", "lpips"},
        "marks": {"right"},
    }
    assert reply["scores"] == scores
    for outcome in [outcome for rulers in scores.values() for outcome in rulers.values()]:
        assert outcome["baseline"] == outcome["enhanced"]
        assert (outcome["difference"], outcome["interval_95"], outcome["excludes_zero"]) == (0.0, [0.0, 0.0], False)
    rows = list(csv.DictReader((job / "detail" / "scores.csv").read_text().splitlines()))
    mean = sum(float(row["lpips"]) for row in rows if row["side"] == "baseline") / 2
    assert mean == pytest.approx(scores["detail"]["lpips"]["baseline"])
    assert any("untrained" in warning for warning in reply["warnings"])
    assert "untrained" in (job / "full_evaluation" / "report.html").read_text()


@pytest.mark.parametrize(
    ("fields", "field", "words"),
    [
        ({"suites": []}, "suites", "at least 1"),
        ({"suites": ["ocr", "ocr"]}, "suites", "names ocr twice"),
        ({"suites": ["colour"]}, "suites[0]", "'ocr'"),
        ({"languages": ["klingon"]}, "languages[0]", "'eng'"),
        ({"cases": 0}, "cases", "greater than or equal to 1"),
        ({"seeds": 21}, "seeds", "less than or equal to 20"),
        ({"bridge": "bridge.pt"}, "bridge", "pickled"),
        ({"images": ["https://example.com/a.png"]}, "images", "bridge_compare takes images"),
        ({"num_inference_steps": 1_000}, "num_inference_steps", "at most 200"),
    ],
)
async def test_bad_input_is_named(make_service: MakeService, fields: dict[str, Any], field: str, words: str) -> None:
    reply = await make_service().handle(evaluate_job(**fields))
    assert reply["details"]["field"] == field
    assert words in reply["error"]


async def test_a_language_that_cannot_be_read_here_names_its_package(
    make_service: MakeService, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("darkroom.media.ocr.available", lambda: frozenset({"eng"}))
    reply = await make_service().handle(evaluate_job(suites=["ocr"], languages=["eng", "deu"]))
    assert reply["code"] == "INVALID_INPUT"
    assert reply["details"]["field"] == "languages"
    assert "apt-get install tesseract-ocr-deu" in reply["error"]
