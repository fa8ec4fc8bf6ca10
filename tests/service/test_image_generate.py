"""An image_generate from request to stored picture, in process."""

from __future__ import annotations

import base64
import io
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.service.conftest import MakeService, edit_job


def generate_job(job_id: str = "job-1", **fields: Any) -> dict[str, Any]:
    given = {"type": "image_generate", "prompt": "a red star", "seed": 5, "num_inference_steps": 1, **fields}
    return {"id": job_id, "input": given}


def pixels(reply: dict[str, Any], index: int = 0) -> np.ndarray:
    data = base64.b64decode(reply["images"][index]["url"].split(",", 1)[1])
    return np.asarray(Image.open(io.BytesIO(data))).astype(int)


async def test_the_reply_is_an_edits_without_a_source(make_service: MakeService) -> None:
    reply = await make_service().handle(generate_job(size="96*160"))
    assert "error" not in reply, reply
    image = reply["images"][0]
    assert (image["key"], image["seed"], image["prompt"]) == ("job-1/image_0000.png", 5, "a red star")
    assert (image["width"], image["height"]) == (96, 160)
    assert reply["parameters"] == {"num_inference_steps": 1, "true_cfg_scale": 1.0}
    assert reply["failed"] == []
    assert reply["warnings"] == []


async def test_many_prompts_and_images_agree_with_each_alone(make_service: MakeService) -> None:
    service = make_service()
    prompts = ["a red star", "a person with long blond hair"]
    batch = await service.handle(generate_job("batch", prompt=prompts, num_images=2, true_cfg_scale=4.0))
    assert [(i["prompt"], i["seed"]) for i in batch["images"]] == [(p, s) for p in prompts for s in (5, 6)]
    for index, image in enumerate(batch["images"]):
        single = generate_job("one", prompt=image["prompt"], seed=image["seed"], true_cfg_scale=4.0)
        alone = pixels(await service.handle(single))
        assert alone.shape == (128, 128, 3)
        assert np.abs(alone - pixels(batch, index)).max() <= 1


async def test_an_edit_before_it_changes_nothing(make_service: MakeService) -> None:
    service = make_service()
    first = pixels(await service.handle(generate_job("a")))
    await service.handle(edit_job("b"))
    np.testing.assert_array_equal(pixels(await service.handle(generate_job("c"))), first)


@pytest.mark.parametrize(
    ("fields", "field", "words"),
    [
        ({"images": ["https://example.com/a.png"]}, "images", "image_edit takes images"),
        ({"preset": "fast"}, "preset", "num_inference_steps"),
        ({"guidance_scale": 4.0}, "guidance_scale", "true_cfg_scale"),
        ({"size": "match_input"}, "size", "'native'"),
        ({"prompt": ""}, "prompt", "empty"),
        ({"prompt": "zq " * 1500}, "prompt", "the limit is 1024"),
    ],
)
async def test_bad_input_is_named(make_service: MakeService, fields: dict[str, Any], field: str, words: str) -> None:
    reply = await make_service().handle(generate_job(**fields))
    assert reply["details"]["field"] == field
    assert words in reply["error"]


async def test_warmup_of_a_model_that_reads_text_alone(make_service: MakeService) -> None:
    reply = await make_service().handle({"id": "w", "input": {"type": "warmup", "models": ["image"]}})
    assert reply["models"]["image"]["state"] == "warm"
