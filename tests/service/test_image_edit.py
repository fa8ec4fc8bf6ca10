"""A job from request to stored picture, in process."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import io
import json
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from darkroom.service import Service
from tests.fakes.loras import random_lora_bytes
from tests.fakes.s3 import S3Server
from tests.service.conftest import MakeService, bucket_settings, data_uri, edit_job, stored


def picture(reply: dict[str, Any], index: int = 0) -> bytes:
    return base64.b64decode(reply["images"][index]["url"].split(",", 1)[1])


async def test_the_reply_is_the_designs(make_service: MakeService, tmp_path: Path) -> None:
    reply = await make_service().handle(edit_job())
    assert reply["image_url"] == reply["images"][0]["url"]
    image = reply["images"][0]
    assert image["key"] == "job-1/image_0000.png"
    assert (image["width"], image["height"], image["seed"], image["prompt"]) == (128, 128, 5, "make it red")
    assert hashlib.sha256(picture(reply)).hexdigest() == image["sha256"]
    assert (tmp_path / "store" / image["key"]).read_bytes() == picture(reply)
    assert reply["seed"] == 5
    assert reply["warnings"] == []
    phases = {"queue_ms", "load_ms", "fetch_ms", "encode_ms", "denoise_ms", "decode_ms", "upload_ms", "total_ms"}
    assert set(reply["timings"]) == {"cold", *phases}
    assert reply["timings"]["denoise_ms"] > 0
    assert set(reply["cost"]) == {"gpu", "gpu_seconds", "usd"}
    assert set(reply["model"]) == {"id", "revision", "precision"}


async def test_the_manifest_names_every_file_and_holds_no_picture(make_service: MakeService, tmp_path: Path) -> None:
    await make_service().handle(edit_job(prompt=["make it red", "make it blue"]))
    manifest = json.loads((tmp_path / "store" / "job-1" / "manifest.json").read_text())
    for entry in manifest["files"]:
        data = (tmp_path / "store" / "job-1" / entry["name"]).read_bytes()
        assert (len(data), hashlib.sha256(data).hexdigest()) == (entry["bytes"], entry["sha256"])
    assert [entry["name"] for entry in manifest["files"]] == ["image_0000.png", "image_0001.png"]
    assert "base64,[" in manifest["request"]["images"][0]
    assert manifest["versions"]["torch"]


async def test_a_job_gives_the_same_bytes_alone_and_after_any_other(
    make_service: MakeService, first_service: Service, tmp_path: Path
) -> None:
    service = make_service(lora_dir=tmp_path)
    weights = random_lora_bytes(first_service.shelf.editor("edit").transformer, strength=0.3)
    (tmp_path / "style.safetensors").write_bytes(weights)
    alone = picture(await service.handle(edit_job("a")))
    others = [
        edit_job("b", loras=[{"path": "style.safetensors", "scale": 1.5}]),
        edit_job("c", size="192*128", preset="fast", true_cfg_scale=3.0, seed=9),
        edit_job("d", prompt="<|image_pad|>"),
        edit_job("e", images=[data_uri(b"no picture")]),
    ]
    changed = [await service.handle(other) for other in others]
    assert picture(changed[0]) != alone
    assert picture(await service.handle(edit_job("f"))) == alone


async def test_many_prompts_and_images_agree_with_each_alone(make_service: MakeService) -> None:
    service = make_service()
    prompts = ["make it red", "make the star a good deal bigger"]
    batch = await service.handle(edit_job("batch", prompt=prompts, num_images=2, true_cfg_scale=4.0))
    assert [(i["prompt"], i["seed"]) for i in batch["images"]] == [(p, s) for p in prompts for s in (5, 6)]
    for index, image in enumerate(batch["images"]):
        single = edit_job("one", prompt=image["prompt"], seed=image["seed"], true_cfg_scale=4.0)
        alone = np.asarray(Image.open(io.BytesIO(picture(await service.handle(single))))).astype(int)
        together = np.asarray(Image.open(io.BytesIO(picture(batch, index)))).astype(int)
        assert np.abs(alone - together).max() <= 1


async def test_a_bad_prompt_is_reported_beside_the_good_one(make_service: MakeService) -> None:
    reply = await make_service().handle(edit_job(prompt=["", "make it red", "zq " * 1500]))
    assert [image["prompt"] for image in reply["images"]] == ["make it red"]
    assert [(bad["index"], bad["code"], bad["details"]["field"]) for bad in reply["failed"]] == [
        (0, "INVALID_INPUT", "prompt[0]"),
        (2, "INPUT_TOO_LARGE", "prompt[2]"),
    ]


@pytest.mark.parametrize(("output_format", "magic"), [("png", b"\x89PNG"), ("webp", b"RIFF"), ("jpeg", b"\xff\xd8")])
async def test_formats(make_service: MakeService, output_format: str, magic: bytes) -> None:
    reply = await make_service().handle(edit_job(output_format=output_format, output_quality=90))
    assert picture(reply).startswith(magic)
    assert reply["images"][0]["key"].endswith(f".{output_format}")
    assert bool(reply["warnings"]) == (output_format == "png")


async def test_sizes_follow_the_request_or_the_last_image(make_service: MakeService) -> None:
    service = make_service()
    asked = await service.handle(edit_job("a", size="192*112"))
    assert (asked["images"][0]["width"], asked["images"][0]["height"]) == (192, 112)
    wide = Image.new("RGB", (300, 200), "navy")
    buffer = io.BytesIO()
    wide.save(buffer, "PNG")
    followed = await service.handle(
        edit_job("b", images=[edit_job()["input"]["images"][0], data_uri(buffer.getvalue())])
    )
    assert (followed["images"][0]["width"], followed["images"][0]["height"]) == (160, 96)


async def test_a_random_seed_is_told_and_makes_the_same_picture_again(make_service: MakeService) -> None:
    service = make_service()
    first = await service.handle(edit_job("a", seed=-1))
    again = await service.handle(edit_job("b", seed=first["seed"]))
    assert picture(first) == picture(again)


async def test_wishes_without_effect_are_said(make_service: MakeService) -> None:
    reply = await make_service().handle(edit_job(negative_prompt="blurry"))
    assert any("negative_prompt has no effect" in warning for warning in reply["warnings"])


async def test_presets_set_steps_and_guidance_and_explicit_fields_win(make_service: MakeService) -> None:
    service = make_service()
    job = edit_job("a", preset="fast")
    del job["input"]["num_inference_steps"], job["input"]["true_cfg_scale"]
    assert (await service.handle(job))["parameters"] == {
        "num_inference_steps": 4, "true_cfg_scale": 1.0, "acceleration": "none", "computed_steps": 4,
    }  # fmt: skip
    explicit = edit_job("b", preset="fast", num_inference_steps=1)
    assert (await service.handle(explicit))["parameters"]["num_inference_steps"] == 1


async def test_links_of_a_bucket_open_and_match_their_hash(make_service: MakeService, s3_server: S3Server) -> None:
    reply = await make_service(**bucket_settings(s3_server, "jobs")).handle(
        edit_job(delivery="s3", expires_seconds=120)
    )
    async with httpx.AsyncClient() as client:
        picture = await client.get(reply["images"][0]["url"])
        manifest = await client.get(reply["manifest_url"])
    assert picture.headers["content-type"] == "image/png"
    assert hashlib.sha256(picture.content).hexdigest() == reply["images"][0]["sha256"]
    assert manifest.json()["job_id"] == "job-1"
    assert reply["images"][0]["key"] == "jobs/job-1/image_0000.png"
    assert reply["images"][0]["expires_at"]


async def test_a_callers_own_bucket_takes_the_result_and_is_never_written_down(
    make_service: MakeService, s3_server: S3Server, tmp_path: Path
) -> None:
    own = {
        "accessId": s3_server.access_key,
        "accessSecret": s3_server.secret,
        "bucketName": s3_server.bucket,
        "endpointUrl": s3_server.endpoint_url,
    }
    reply = await make_service(allow_private_urls=True).handle({**edit_job("mine"), "s3Config": own})
    assert reply["images"][0]["key"] == "mine/image_0000.png"
    assert stored(tmp_path) == []
    text = json.dumps(reply).replace(reply["image_url"], "").replace(reply["manifest_url"], "")
    assert s3_server.secret not in json.dumps(reply)
    assert s3_server.access_key not in text


async def test_a_callers_own_bucket_on_a_private_address_is_refused(make_service: MakeService) -> None:
    own = {"accessId": "a", "accessSecret": "b", "bucketName": "photos", "endpointUrl": "http://127.0.0.1:1"}
    reply = await make_service().handle({**edit_job(), "s3Config": own})
    assert (reply["code"], reply["details"]["field"]) == ("UNSAFE_URL", "s3Config.endpointUrl")


async def test_a_result_too_large_for_base64_goes_out_as_links(make_service: MakeService, s3_server: S3Server) -> None:
    service = make_service(**bucket_settings(s3_server, "big"), max_result_mb=0.02)
    reply = await service.handle(edit_job(delivery="base64"))
    assert reply["images"][0]["url"].startswith("http")
    assert any("too large" in warning for warning in reply["warnings"])


async def test_a_result_too_large_for_a_reply_without_links_is_kept_and_its_keys_are_told(
    make_service: MakeService, tmp_path: Path
) -> None:
    reply = await make_service(max_result_mb=0.02).handle(edit_job())
    assert reply["code"] == "RESULT_TOO_LARGE"
    assert reply["details"]["keys"] == ["job-1/image_0000.png"]
    assert "job-1/image_0000.png" in stored(tmp_path)


async def test_delivery_s3_without_a_bucket_is_refused_before_any_work(
    make_service: MakeService, tmp_path: Path
) -> None:
    reply = await make_service().handle(edit_job(delivery="s3"))
    assert (reply["code"], reply["details"]["field"]) == ("INVALID_INPUT", "delivery")
    assert stored(tmp_path) == []


async def test_progress_comes_in_order_and_never_after_the_reply(make_service: MakeService) -> None:
    seen: list[tuple[str, int, int]] = []
    replied = False

    async def send(payload: dict[str, Any]) -> None:
        assert not replied
        seen.append((payload["stage"], payload["done"], payload["total"]))

    await make_service(progress_seconds=0.001).handle(edit_job(num_inference_steps=6), send)
    replied = True
    await asyncio.sleep(0.05)
    denoise = [done for stage, done, _ in seen if stage == "denoise"]
    assert denoise
    assert denoise == sorted(denoise)


async def test_a_control_plane_that_takes_no_progress_loses_no_job(make_service: MakeService) -> None:
    async def send(payload: dict[str, Any]) -> None:
        raise OSError("gone")

    reply = await make_service(progress_seconds=0.001).handle(edit_job(num_inference_steps=3), send)
    assert reply["images"]


async def test_control_tokens_in_a_prompt_are_taken_out_and_this_is_said(make_service: MakeService) -> None:
    reply = await make_service().handle(edit_job(prompt="make it red<|im_end|>"))
    assert any("control tokens" in warning for warning in reply["warnings"])


async def test_the_torch_thread_takes_the_number_of_threads_that_is_set(make_service: MakeService) -> None:
    import torch

    service = make_service(threads=1)
    assert await service._runner.call(torch.get_num_threads) == 1


async def test_acceleration_is_told_in_reply_manifest_and_warnings_and_leaves_no_trace(
    make_service: MakeService, tmp_path: Path
) -> None:
    service = make_service()
    plain = edit_job("plain", num_inference_steps=8, true_cfg_scale=4.0)
    before = picture(await service.handle(plain))
    fast = await service.handle(edit_job("fast", num_inference_steps=8, true_cfg_scale=4.0, acceleration="cache"))
    manifest = json.loads((tmp_path / "store" / "fast" / "manifest.json").read_text())
    assert (fast["parameters"]["acceleration"], fast["parameters"]["computed_steps"]) == ("cache", 5)
    assert manifest["reply"]["parameters"] == fast["parameters"]
    assert "acceleration cache is lossy: 5 of 8 steps were computed, the others extrapolated" in fast["warnings"]
    assert picture(fast) != before
    assert picture(await service.handle({**plain, "id": "after"})) == before
    few = await service.handle(edit_job("few", num_inference_steps=2, acceleration="aggressive"))
    assert "acceleration aggressive had no effect: so few steps (2) are all computed" in few["warnings"]


async def test_an_unknown_acceleration_is_refused_by_name(make_service: MakeService) -> None:
    reply = await make_service().handle(edit_job(acceleration="warp"))
    assert (reply["code"], reply["details"]["field"]) == ("INVALID_INPUT", "acceleration")


async def test_the_same_photo_again_finds_its_encodings(make_service: MakeService) -> None:
    service = make_service()
    job = edit_job("first", prompt="make it blue", num_inference_steps=2, true_cfg_scale=2.0, size="112*144")
    first, second = await service.handle(job), await service.handle({**job, "id": "second"})
    assert second["encodings"] == {"hits": sum(first["encodings"].values()), "misses": 0}
    assert picture(second) == picture(first)
