"""A comparison from request to stored pictures: untrained changes nothing, trained both branches; faults are named."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from darkroom.models.bridge import MADE_FOR, Bridge, from_bytes, to_bytes, untrained
from darkroom.models.specs import ModelSpec
from darkroom.models.weights import weights_digest
from darkroom.service import Service
from darkroom.technique.bridge import BridgeConfig
from tests.fakes.loras import random_lora_bytes
from tests.service.conftest import PHOTO, MakeService, data_uri, stored

FORM = BridgeConfig(128, 128, rank=8)
KEY = "trained/checkpoints/bridge.safetensors"
SIDES = ("baseline", "enhanced")


@pytest.fixture(autouse=True)
def vision(first_service: Service, vision_folder: Path) -> Iterator[None]:
    """The random Qwen3-VL on the shelf that all services share."""
    shelf = first_service.shelf
    before = shelf.profile
    shelf.profile = replace(before, models={**before.models, "vision": ModelSpec(str(vision_folder))})
    yield
    shelf.evict("vision")
    shelf.profile = before


def opened(gate: float = 0.5, form: BridgeConfig = FORM) -> bytes:
    bridge = from_bytes(to_bytes(untrained(form)))
    if bridge.module.gate is not None:
        torch.nn.init.constant_(bridge.module.gate, gate)
    return to_bytes(Bridge(bridge.module, {"steps": 3}))


def compare_job(job_id: str = "job-1", **fields: Any) -> dict[str, Any]:
    given = {
        "type": "bridge_compare",
        "images": [data_uri(PHOTO.read_bytes())],
        "prompt": "make it red",
        "bridge": "untrained",
        "seed": 5,
        "num_inference_steps": 1,
        "true_cfg_scale": 2.0,
        "size": "64*64",
        **fields,
    }
    return {"id": job_id, "input": given}


def keep(tmp_path: Path, data: bytes, key: str = KEY) -> None:
    path = tmp_path / "store" / key
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def pixels(tmp_path: Path, name: str, job: str = "job-1") -> np.ndarray[Any, Any]:
    with Image.open(tmp_path / "store" / job / name) as image:
        return np.asarray(image)


async def test_untrained_the_pictures_are_equal_and_all_files_are_there(
    make_service: MakeService, tmp_path: Path
) -> None:
    reply = await make_service().handle(compare_job())
    assert "error" not in reply, reply
    names = ["attention_early", "attention_late", "attention_mid", "baseline", "comparison", "difference", "enhanced"]
    expected = [f"job-1/{name}_0000.png" for name in names] + ["job-1/manifest.json", "job-1/report.json"]
    assert stored(tmp_path) == expected
    assert np.array_equal(pixels(tmp_path, "baseline_0000.png"), pixels(tmp_path, "enhanced_0000.png"))
    assert not pixels(tmp_path, "difference_0000.png").any()
    assert any("untrained" in warning for warning in reply["warnings"])
    assert reply["bridge"]["state"] == "untrained"
    report = json.loads((tmp_path / "store" / "job-1" / "report.json").read_text())
    case = report["cases"][0]
    assert case["tokens_replaced"] == case["caches"]["baseline"]["tokens"] == 16
    assert case["caches"]["same_grid"]
    assert case["caches"]["bridge"]["parameters"] == report["bridge"]["parameters"]
    assert {"look", "bridge", "baseline", "enhanced"} <= set(report["stages"])
    assert case["difference"] == {"mean_of_255": 0.0, "max_of_255": 0, "changed_pixels": 0.0}


async def test_trained_every_case_changes_and_has_a_line_in_the_table(
    make_service: MakeService, tmp_path: Path
) -> None:
    keep(tmp_path, opened())
    noise = io.BytesIO()
    Image.effect_noise((160, 96), 90).convert("RGB").save(noise, "png")
    job = compare_job(
        images=[data_uri(PHOTO.read_bytes()), data_uri(noise.getvalue(), "image/png")],
        sight_images=[data_uri(noise.getvalue(), "image/png")] * 2,
        prompt=["make it red", "make it blue"],
        bridge=KEY,
        extractor_prompt="find the mark",
        alignment="interpolate",
        loading="sequential",
    )
    service = make_service()
    reply = await service.handle(job)
    assert "error" not in reply, reply
    assert [case["prompt"] for case in reply["cases"]] == ["make it red", "make it blue"]
    assert all(case["difference"]["changed_pixels"] > 0 for case in reply["cases"])
    assert reply["bridge"]["about"] == {"steps": 3}
    assert not np.array_equal(pixels(tmp_path, "baseline_0001.png"), pixels(tmp_path, "enhanced_0001.png"))
    assert service.shelf.report()["models"]["vision"]["state"] == "cold"
    report = json.loads((tmp_path / "store" / "job-1" / "report.json").read_text())
    assert sum(report["cases"][0]["attention"].values()) == pytest.approx(1, abs=1e-3)


async def test_a_bridge_between_other_models_of_these_dimensions_is_warned_of(
    make_service: MakeService, tmp_path: Path, vision_folder: Path
) -> None:
    bridge = from_bytes(opened())
    made_for = {"tower": "another", "vision": weights_digest(vision_folder)}
    keep(tmp_path, to_bytes(replace(bridge, about={MADE_FOR: made_for})))
    reply = await make_service().handle(compare_job(bridge=KEY))
    assert "the bridge was made for another vision tower of the text encoder than this worker's" in reply["warnings"]


async def test_the_baseline_is_image_edits_own_picture(make_service: MakeService, tmp_path: Path) -> None:
    keep(tmp_path, opened())
    service = make_service()
    await service.handle(compare_job(bridge=KEY))
    fields = {k: v for k, v in compare_job()["input"].items() if k not in ("type", "bridge")}
    await service.handle({"id": "plain", "input": fields})
    assert np.array_equal(pixels(tmp_path, "baseline_0000.png"), pixels(tmp_path, "image_0000.png", "plain"))


async def test_however_the_vision_model_is_loaded_the_baseline_is_the_same(
    make_service: MakeService, tmp_path: Path
) -> None:
    """And so is the enhanced picture, but for 8 bits, whose sight is another and is kept apart."""
    keep(tmp_path, opened())
    service = make_service()
    made: dict[str, list[np.ndarray[Any, Any]]] = {}
    for loading in ("auto", "sequential", "8bit", "offload"):
        reply = await service.handle(compare_job(loading, bridge=KEY, loading=loading))
        assert "error" not in reply, reply
        made[loading] = [pixels(tmp_path, f"{side}_0000.png", loading) for side in SIDES]
        report = json.loads((tmp_path / "store" / loading / "report.json").read_text())
        assert report["extractor"]["precision"] == ("fp8_storage" if loading == "8bit" else "float32")
    assert all(np.array_equal(sides[0], made["auto"][0]) for sides in made.values())
    same = {loading for loading, sides in made.items() if np.array_equal(sides[1], made["auto"][1])}
    assert same == {"auto", "sequential", "offload"}


@pytest.mark.parametrize(
    ("fields", "code", "words"),
    [
        ({"bridge": "a.pt"}, "INVALID_INPUT", "refused"),
        ({"bridge": "other/none.safetensors"}, "INVALID_INPUT", "no such file"),
        ({"bridge": None}, "INVALID_INPUT", "ships none"),
        ({"prompt": ["a", "b"]}, "INVALID_INPUT", "2 instructions for 1 images"),
        ({"prompt": [" "]}, "INVALID_INPUT", "is empty"),
        ({"sight_images": ["https://example.com/a.png"] * 2}, "INVALID_INPUT", "2 pictures for 1 images"),
        ({"images": ["x"] * 17}, "INVALID_INPUT", "the limit is 16"),
        ({"num_images": 2}, "INVALID_INPUT", "one pair of pictures per image"),
        ({"extractor_prompt": " "}, "INVALID_INPUT", "extractor_prompt is empty"),
        ({"loading": "magic"}, "INVALID_INPUT", "loading"),
    ],
)
async def test_bad_fields_are_named(make_service: MakeService, fields: dict[str, Any], code: str, words: str) -> None:
    reply = await make_service().handle(compare_job(**fields))
    assert reply["code"] == code, reply
    assert words in reply["error"]


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"\x80\x04pickle", "a pickle can run code"),
        (to_bytes(untrained(BridgeConfig(3584, 4096, rank=1))), "width 3584; these models have 3 of 128 and 128"),
    ],
)
async def test_a_bad_bridge_is_named(make_service: MakeService, tmp_path: Path, data: bytes, words: str) -> None:
    keep(tmp_path, data)
    reply = await make_service().handle(compare_job(bridge=KEY))
    assert reply["code"] == "INVALID_INPUT", reply
    assert words in reply["error"]


@pytest.mark.parametrize("size", [(1, 1), (20_000, 1)])
@pytest.mark.parametrize("field", ["images", "sight_images"])
async def test_a_picture_of_no_shape_is_refused(make_service: MakeService, size: tuple[int, int], field: str) -> None:
    file = io.BytesIO()
    Image.new("RGB", size).save(file, "png")
    reply = await make_service().handle(compare_job(**{field: [data_uri(file.getvalue(), "image/png")]}))
    assert reply["code"] == "INVALID_INPUT", reply
    assert f"{field}[0] has {size[0]} × {size[1]} pixels" in reply["error"]


async def test_a_bridge_that_does_not_reach_the_model_fails_the_job(
    make_service: MakeService, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Broken on purpose: the engine reads the baseline's tokens where it was given the bridge's."""
    from darkroom.models import enhanced

    keep(tmp_path, opened())

    def lost(self: Any, prompt: str, references: Any, sampling: Any, count: int = 1) -> Any:
        with Image.open(PHOTO) as photo:
            baseline = self.editor.reference([photo.convert("RGB")])
        return self.editor.condition([prompt] * count, replace(references, visual=baseline.visual), " ")

    monkeypatch.setattr(enhanced.EnhancedEditor, "condition", lost)
    reply = await make_service().handle(compare_job(bridge=KEY))
    assert reply["code"] == "INTERNAL"
    assert "did not reach the prompt's embeddings" in reply["error"]
    assert "image_url" not in reply


async def test_a_lora_is_worn_by_both_sides(make_service: MakeService, first_service: Service, tmp_path: Path) -> None:
    keep(tmp_path, opened())
    service = make_service(lora_dir=tmp_path)
    weights = random_lora_bytes(first_service.shelf.editor("edit").transformer, strength=0.3)
    (tmp_path / "style.safetensors").write_bytes(weights)
    loras = [{"path": "style.safetensors", "scale": 1.5}]
    await service.handle(compare_job("bare", bridge=KEY))
    await service.handle(compare_job("worn", bridge=KEY, loras=loras))
    both = {(job, side): pixels(tmp_path, f"{side}_0000.png", job) for job in ("bare", "worn") for side in SIDES}
    assert not np.array_equal(both["worn", "baseline"], both["worn", "enhanced"])
    assert all(not np.array_equal(both["bare", side], both["worn", side]) for side in SIDES)
    await service.handle(compare_job("after", bridge=KEY))
    assert all(np.array_equal(pixels(tmp_path, f"{side}_0000.png", "after"), both["bare", side]) for side in SIDES)
