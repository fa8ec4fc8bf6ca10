"""A worker with DARKROOM_GPUS=2, here two CPU processes over gloo: the pictures of one, and a follower that dies."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from darkroom.models.acceleration import measure
from darkroom.models.editor import Editor
from darkroom.models.lora import read, worn
from darkroom.service import Service
from darkroom.settings import Settings
from tests.fakes.loras import random_lora, random_lora_bytes
from tests.service.clips import edge_list, video_job
from tests.service.conftest import edit_job
from tests.service.test_image_edit import picture

TOLERANCE = 1e-4
"""Of pixels in −1…1, after four forwards; measured was less than a tenth of it."""


@pytest.fixture(scope="module")
def loras(first_service: Service, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """style.safetensors fits; last.safetensors does, too, and changes the last projection."""
    from safetensors.torch import save_file

    folder, transformer = tmp_path_factory.mktemp("loras"), first_service.shelf.editor("edit").transformer
    (folder / "style.safetensors").write_bytes(random_lora_bytes(transformer, strength=0.3))
    one = random_lora(transformer)
    renamed = {name.replace("transformer_blocks.0.attn.to_q", "proj_out"): tensor for name, tensor in one.items()}
    save_file(renamed, folder / "last.safetensors")
    return folder


@pytest.fixture(scope="module")
def pair(family: Path, loras: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    folder = tmp_path_factory.mktemp("pair")
    models: dict[str, Any] = {"profile": "pocket", "edit_model": str(family), "video_model": str(family)}
    service = Service(Settings(**models, gpus=2, store=str(folder / "store"), spool=folder / "spool", lora_dir=loras))
    yield service
    assert service.shelf.crew is not None
    service.shelf.crew.close()


@pytest.fixture(scope="module")
def single(first_service: Service, family: Path, loras: Path, tmp_path_factory: pytest.TempPathFactory) -> Service:
    folder = tmp_path_factory.mktemp("single")
    models: dict[str, Any] = {"profile": "pocket", "edit_model": str(family), "video_model": str(family)}
    service = Service(Settings(**models, store=str(folder / "store"), spool=folder / "spool", lora_dir=loras))
    service.shelf = first_service.shelf
    return service


def pixels(reply: dict[str, Any], index: int) -> Any:
    return np.asarray(Image.open(io.BytesIO(picture(reply, index)))).astype(int)


JOBS = {
    # An odd number of tokens in one of the prompts, so that the shares are unequal.
    "two prompts": {"prompt": ["red", "a longer one"], "num_inference_steps": 2, "true_cfg_scale": 4.0},
    "a LoRA": {"loras": [{"path": "style.safetensors", "scale": 1.5}]},
    "after the LoRA": {},
}


async def test_two_processes_answer_as_one(single: Service, pair: Service) -> None:
    plain = []
    for name, fields in JOBS.items():
        one, two = await single.handle(edit_job(**fields)), await pair.handle(edit_job(**fields))
        assert len(one["images"]) == len(two["images"]), (name, two)
        for index in range(len(one["images"])):
            assert np.abs(pixels(one, index) - pixels(two, index)).max() <= 1, name
        plain.append(pixels(two, 0))
    assert np.abs(plain[1] - plain[2]).max() > 10, "the LoRA changes the picture, and is gone after its job"


def edited(editor: Editor, loras: Path) -> Any:
    photo = Image.effect_mandelbrot((96, 64), (-2, -1, 1, 1), 50).convert("RGB")
    conditioning = editor.condition(["red", "a longer one"], editor.reference([photo]), negative_prompt=" ")
    with worn(editor.transformer, [read((loras / "style.safetensors").read_bytes(), 1.0, "loras[0].path")]):
        return measure(editor, conditioning, "none", steps=2, true_cfg_scale=4.0).pixels


def test_they_differ_by_the_order_of_additions_alone(single: Service, pair: Service, loras: Path) -> None:
    one, two = (edited(service.shelf.editor("edit"), loras) for service in (single, pair))
    difference = float((one - two).abs().max())
    print(f"largest difference {difference:.1e} of values with a deviation of {float(one.std()):.2f}")
    assert difference <= TOLERANCE < float(one.std()) / 100


async def test_what_cannot_be_shared_is_refused_by_name(pair: Service) -> None:
    reply = await pair.handle(edit_job(loras=[{"path": "last.safetensors"}]))
    assert (reply["code"], reply["details"]["field"]) == ("INVALID_INPUT", "loras[0].path")
    assert "DARKROOM_GPUS" in reply["error"]
    film = {"edges": edge_list(1), "num_inference_steps": 1, "ttlg": {"edge_scale": 1.0, "through": "transformer"}}
    reply = await pair.handle(video_job("through", **film))
    assert (reply["code"], reply["details"]["field"]) == ("INVALID_INPUT", "ttlg.through")
    assert "DARKROOM_GPUS" in reply["error"]
    assert "error" not in await pair.handle(video_job("vae", **{**film, "ttlg": {"edge_scale": 1.0}}))


async def test_a_dead_follower_ends_the_job_and_then_the_worker(family: Path, pair: Service) -> None:
    """The last test of this module: the pair is lost after it."""

    async def kill(progress: dict[str, Any]) -> None:
        if progress["stage"] == "denoise":
            assert pair.shelf.crew is not None
            pair.shelf.crew.processes[0].kill()

    for reply in [await pair.handle(edit_job(num_inference_steps=200), kill), await pair.handle(edit_job())]:
        assert (reply["code"], reply["retryable"], reply["refresh_worker"]) == ("GPU_FAULT", True, True)
        assert "DARKROOM_GPUS" in reply["error"]
