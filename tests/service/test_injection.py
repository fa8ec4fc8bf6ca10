"""Injection jobs from request to stored files, in process: a head is trained, then swept."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import pickle
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor

from darkroom.models import captions, heads
from darkroom.models.heads import Head
from darkroom.models.identity import IdentityEncoder
from darkroom.models.likeness import PocketRulers
from darkroom.models.shelf import Shelf
from darkroom.models.specs import ModelSpec
from darkroom.pocket.world.portraits import draw_portrait
from darkroom.service import Service
from darkroom.storage import S3Store
from darkroom.technique.injection import HeadConfig
from darkroom.workers.injection.training import Trainer
from tests.fakes.s3 import S3Server
from tests.service.conftest import MakeService, bucket_settings, data_uri, stored

CONFIG = HeadConfig(feature_width=128, levels=4, text_width=128, slots=3, rank=8)
BASE_PROMPT = "a portrait of ~ID~ in front of a blue background"
SLOTTED = "a portrait of person person person in front of a blue background"
PHOTO = {"photo_fit": "crop", "photo_pixels": 128 * 128}


def photo(seed: int, view: int = 0) -> bytes:
    person = draw_portrait(np.random.default_rng(seed)).person
    pixels = draw_portrait(np.random.default_rng((seed, view)), person=person).render()
    file = io.BytesIO()
    Image.fromarray(np.round(pixels * 255).astype(np.uint8)).save(file, "PNG")
    return file.getvalue()


def people(count: int = 2, views: int = 3, captions: bool = True) -> dict[str, bytes]:
    files = {f"data/seed_{n}/photo_view_{v}.png": photo(n, v) for n in range(count) for v in range(views)}
    if captions:
        files |= {f"data/seed_{n}/caption.txt": b"a person with brown eyes" for n in range(count)}
    return files


def zipped(files: dict[str, bytes], folders: tuple[str, ...] = ()) -> str:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for folder in folders:
            archive.writestr(zipfile.ZipInfo(f"{folder}/"), b"")
        for name, data in files.items():
            archive.writestr(zipfile.ZipInfo(name), data)  # without the time, by which requests would differ
    return data_uri(buffer.getvalue(), "application/zip")


def head_bytes(config: HeadConfig = CONFIG) -> bytes:
    return heads.to_bytes(Head(heads.untrained(config, 0), {"objective": "none"}))


def head_uri(config: HeadConfig = CONFIG) -> str:
    return data_uri(head_bytes(config), "application/octet-stream")


def sweep_job(job_id: str = "sweep", **fields: Any) -> dict[str, Any]:
    given = {
        "type": "injection_sweep",
        "photos": [data_uri(photo(1), "image/png")],
        "head": head_uri(),
        "alphas": [1.0],
        "gen_seeds": [7],
        "steps": 1,
        "base_prompt": BASE_PROMPT,
        **PHOTO,
        **fields,
    }
    return {"id": job_id, "input": {name: value for name, value in given.items() if value is not None}}


def train_job(job_id: str = "train", **fields: Any) -> dict[str, Any]:
    given = {
        "type": "injection_train",
        "dataset": zipped(people()),
        "epochs": 2,
        "slots": 3,
        "rank": 8,
        "base_prompt": BASE_PROMPT,
        **PHOTO,
        **fields,
    }
    return {"id": job_id, "input": given}


@pytest.fixture(scope="session")
def seeing(first_service: Service, vision_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Shelf:
    """The services' one shelf, with a vision model of random weights and rulers over an untrained encoder."""
    folder = tmp_path_factory.mktemp("seeing")
    shelf = first_service.shelf
    shelf.profile = replace(
        shelf.profile, models={**shelf.profile.models, "vision": ModelSpec(str(vision_folder))}
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        save_file(IdentityEncoder().state_dict(), folder / "encoder.safetensors")
    shelf._rulers = PocketRulers(torch.device("cpu"), folder / "encoder.safetensors")
    return shelf


@pytest.fixture
def service(seeing: Shelf, make_service: MakeService) -> Service:
    return make_service()


def read(tmp_path: Path, name: str) -> bytes:
    return (tmp_path / "store" / name).read_bytes()


def pixels(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data)))


def counted(module: Any) -> tuple[list[int], Callable[[], None]]:
    """Batch sizes of a module's calls from now on, and how to stop counting."""
    calls: list[int] = []
    hook = module.register_forward_hook(lambda _, inputs, __: calls.append(len(inputs[0])))
    return calls, hook.remove


# -- sweeping -----------------------------------------------------------------------------------


async def test_a_sweep_has_the_designs_files_and_reply(service: Service, tmp_path: Path) -> None:
    job = sweep_job(photos=None, dataset=zipped(people()), alphas=[0.0, 0.5], gen_seeds=[1, 2])
    reply = await service.handle(job)
    assert "error" not in reply, reply
    cells = [
        f"cells/seed_{n}{kind}_s{s}.png"
        for n in (0, 1)
        for kind in ("_a0", "_a0.5", "_wrong_a0.5", "_random_a0.5", "_caption")
        for s in (1, 2)
    ]
    made = [f"generations/seed_{n}_{what}" for n in (0, 1) for what in ("alpha_grid.png", "meta.json")]
    names = {name.removeprefix("sweep/") for name in stored(tmp_path)}
    assert names == {*cells, *made, "curves.png", "manifest.json", "state.json"}
    assert reply["prompt"] == SLOTTED
    assert set(reply["people"]) == {"seed_0", "seed_1"}
    meta = json.loads(read(tmp_path, "sweep/generations/seed_1_meta.json"))
    assert meta["alphas"] == [0.0, 0.5]
    assert meta["gen_seeds"] == [1, 2]
    assert meta["caption"] == "a person with brown eyes"
    assert {row["kind"] for row in meta["cells"]} == {"base", "identity", "wrong", "random", "caption"}
    assert all(f"sweep/{row['file']}" in stored(tmp_path) for row in meta["cells"])
    assert all(row["diversity"] is not None for row in meta["summary"])
    assert pixels(read(tmp_path, "sweep/generations/seed_0_alpha_grid.png")).shape[1] > 6 * 128


async def test_alpha_0_is_image_generate_of_the_same_tokens_bit_for_bit(service: Service, tmp_path: Path) -> None:
    for guidance in (1.0, 3.0):
        fields = {"guidance": guidance, "negative_prompt": "blurry" if guidance > 1 else None}
        swept = await service.handle(sweep_job(alphas=[0.0, 1.0], **fields))
        given = {"type": "image_generate", "prompt": swept["prompt"], "seed": 7, "num_inference_steps": 1,
                 "true_cfg_scale": guidance, "negative_prompt": "blurry" if guidance > 1 else " "}  # fmt: skip
        await service.handle({"id": "plain", "input": given})
        assert read(tmp_path, "sweep/cells/photo_a0_s7.png") == read(tmp_path, "plain/image_0000.png")
        assert read(tmp_path, "sweep/cells/photo_a1_s7.png") != read(tmp_path, "plain/image_0000.png")


async def test_photos_and_prompt_are_read_once_and_no_forward_is_wasted(service: Service, seeing: Shelf) -> None:
    editor = seeing.editor("image")
    job = sweep_job(alphas=[0.5, 1.0, 1.5], gen_seeds=[1, 2, 3], steps=2, base_prompt="counted ~ID~", controls=False,
                    photos=[data_uri(photo(77), "image/png")])  # fmt: skip
    forwards, stop = counted(editor.transformer.img_in)
    looks, stop_looks = counted(seeing.vision().model.visual)
    reads, stop_reads = counted(editor.text_encoder.model.language_model.norm)
    try:
        assert "error" not in await service.handle(job)
        assert forwards == [9, 9]
        assert (len(looks), len(reads)) == (1, 1)
        await service.handle(job | {"id": "again"})
        assert (len(looks), len(reads)) == (1, 1)
    finally:
        stop(), stop_looks(), stop_reads()


async def test_cells_agree_with_each_alone_within_one_level(service: Service, tmp_path: Path) -> None:
    await service.handle(sweep_job("many", alphas=[0.5, 1.0], gen_seeds=[7, 8]))
    for alpha in (0.5, 1.0):
        await service.handle(sweep_job("one", alphas=[alpha], gen_seeds=[8], controls=False))
        name = f"cells/photo_a{alpha:g}_s8.png"
        together, alone = (pixels(read(tmp_path, f"{job}/{name}")).astype(int) for job in ("many", "one"))
        assert np.abs(together - alone).max() <= 1


async def test_a_sweep_taken_over_goes_on_after_the_last_person(service: Service, tmp_path: Path) -> None:
    job = sweep_job(photos=None, dataset=zipped(people()))
    await service.handle(job)
    whole = {name: hashlib.sha256(read(tmp_path, name)).hexdigest() for name in stored(tmp_path)}
    (tmp_path / "store/sweep/manifest.json").unlink()
    state = json.loads(read(tmp_path, "sweep/state.json"))
    last = next(i for i, line in enumerate(state["stored"]) if line["entry"]["name"].endswith("seed_0_meta.json"))
    state["stored"] = state["stored"][: last + 2]
    (tmp_path / "store/sweep/state.json").write_text(json.dumps(state))
    reply = await service.handle(job)
    assert any("1 people" in warning for warning in reply["warnings"])
    again = {name: hashlib.sha256(read(tmp_path, name)).hexdigest() for name in stored(tmp_path)}
    differing = {name for name in whole if whole[name] != again[name]}
    assert differing <= {"sweep/manifest.json", "sweep/state.json"}


async def test_people_of_an_earlier_try_with_another_head_are_made_again(service: Service, tmp_path: Path) -> None:
    job = sweep_job(photos=None, dataset=zipped(people()), controls=False)
    await service.handle(job)
    (tmp_path / "store/sweep/manifest.json").unlink()
    path = tmp_path / "store/sweep/state.json"
    state = json.loads(path.read_text())
    records = [line["record"] for line in state["stored"] if "person" in line["record"]]
    assert len(records) == 2
    for record in records:
        record["made_by"]["head"] = "another"
    path.write_text(json.dumps(state))
    reply = await service.handle(job)
    assert any("other defaults, models or head" in warning for warning in reply["warnings"])
    assert not any("went on" in warning for warning in reply["warnings"])
    assert set(reply["people"]) == {"seed_0", "seed_1"}


async def test_without_another_person_the_reply_says_which_control_is_missing(service: Service) -> None:
    reply = await service.handle(sweep_job())
    assert any("wrong identity" in warning for warning in reply["warnings"])
    other = [data_uri(photo(2), "image/png")]
    reply = await service.handle(sweep_job("b", other_photos=other))
    assert not any("wrong identity" in warning for warning in reply["warnings"])
    kinds = {row["kind"] for row in reply["people"]["photo"]["summary"]}
    assert kinds == {"base", "identity", "wrong", "random"}


async def test_what_has_no_effect_is_told_and_not_looked_at(service: Service, seeing: Shelf) -> None:
    looks, stop = counted(seeing.vision().model.visual)
    others, own = ([data_uri(photo(seed), "image/png")] for seed in (78, 79))
    try:
        reply = await service.handle(sweep_job(controls=False, photos=own, other_photos=others))
    finally:
        stop()
    assert len(looks) == 1
    assert any("other_photos have no effect" in warning for warning in reply["warnings"])


async def test_control_tokens_are_read_as_blanks_and_the_reply_says_so(service: Service) -> None:
    for job in (sweep_job(caption="red<|im_end|>hair"), train_job(base_prompt="a<|im_end|> ~ID~", epochs=1)):
        reply = await service.handle(job)
        assert any("control tokens" in warning for warning in reply["warnings"])


async def test_people_come_from_a_folder_of_the_bucket(
    seeing: Shelf, make_service: MakeService, s3_server: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the empty object that a console leaves for a folder, and the head by the key that a reply has for it."""
    listed = S3Store.below
    monkeypatch.setattr(S3Store, "below", lambda store, address: [address, *listed(store, address)])
    service = make_service(**bucket_settings(s3_server, "injection"))
    for name, data in people(2, 1).items():
        service.store.put(name, data, "application/octet-stream")
    service.store.put("head.safetensors", head_bytes(), "application/octet-stream")
    folder = f"s3://{s3_server.bucket}/injection/data/"
    head = service.store.place("head.safetensors")
    reply = await service.handle(sweep_job(photos=None, dataset=folder, head=head, delivery="s3"))
    assert set(reply["people"]) == {"seed_0", "seed_1"}
    other = await service.handle(sweep_job("b", photos=None, dataset="s3://elsewhere/people/"))
    assert other["code"] == "UNSAFE_URL"
    none = await service.handle(sweep_job("c", photos=None, dataset=f"s3://{s3_server.bucket}/injection/nobody/"))
    assert "no seed_* directory" in none["error"]


# -- training -----------------------------------------------------------------------------------


@pytest.mark.parametrize("objective", ["caption", "flow", "both", "zero"])
async def test_a_head_is_trained_and_swept(service: Service, tmp_path: Path, objective: str) -> None:
    reply = await service.handle(train_job(objective=objective))
    assert "error" not in reply, reply
    assert {"train/checkpoints/head.safetensors", "train/report.json", "train/curves.png"} <= set(stored(tmp_path))
    report = json.loads(read(tmp_path, "train/report.json"))
    assert len(report["losses"]) == 4  # 2 people × 2 photos in batches of 2, twice
    assert len(report["validation"]) == 2
    assert report["people"]["seed_0"] == {"train": 2, "held_out": 1}
    assert any("baseline" in warning for warning in reply["warnings"]) == (objective == "zero")
    head = heads.from_bytes(read(tmp_path, "train/checkpoints/head.safetensors"))
    assert head.about["objective"] == objective
    assert not head.training
    swept = await service.handle(sweep_job(head="train/checkpoints/head.safetensors"))
    assert "error" not in swept, swept


async def test_missing_captions_are_the_vision_models_own(
    service: Service, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = zipped({**people(2, 2, captions=False), "data/seed_1/caption.txt": b"a person with green eyes"})
    monkeypatch.setattr(captions, "MOST_TOKENS", 6)  # of the random model's babble
    reply = await service.handle(train_job(dataset=dataset, captions="vision", epochs=1))
    assert "error" not in reply, reply
    said = json.loads(read(tmp_path, "train/report.json"))["captions"]
    assert said["seed_1"] == "a person with green eyes"
    assert said["seed_0"]
    assert any("captions of 1 people" in warning for warning in reply["warnings"])


async def test_the_loss_falls_and_only_the_head_learns(service: Service, seeing: Shelf, tmp_path: Path) -> None:
    editor = seeing.editor("image")
    before = [value.clone() for value in editor.transformer.parameters()]
    await service.handle(train_job(epochs=12, lr=3e-3))
    losses = json.loads(read(tmp_path, "train/report.json"))["losses"]
    assert sum(losses[-4:]) < 0.7 * sum(losses[:4])
    assert all(torch.equal(a, b) for a, b in zip(before, editor.transformer.parameters(), strict=True))
    assert not any(value.requires_grad for value in editor.transformer.parameters())


def failing_in_epoch(number: int, monkeypatch: pytest.MonkeyPatch, fail: Callable[[], Tensor]) -> None:
    """The second batch of that epoch ends as `fail` does."""
    real, calls = Trainer._loss, [0]

    def loss(self: Trainer, *args: Any) -> Tensor:
        calls[0] += self.course.epoch == number - 1
        return fail() if calls[0] == 2 else real(self, *args)

    monkeypatch.setattr(Trainer, "_loss", loss)


def full() -> Tensor:
    raise torch.OutOfMemoryError("CUDA out of memory")


async def test_a_training_taken_over_ends_as_an_undisturbed_one(
    service: Service, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Cut off in the middle of an epoch, and of gradients that are being gathered."""
    whole = train_job("whole", objective="both", epochs=3, gradient_accumulation=3)
    await service.handle(whole)
    job = {**whole, "id": "cut"}
    with monkeypatch.context() as patch:
        failing_in_epoch(2, patch, full)
        assert "error" in await service.handle(job)
    assert heads.from_bytes(read(tmp_path, "cut/checkpoints/head.safetensors")).training
    reply = await service.handle(job)
    assert any("went on after epoch 1" in warning for warning in reply["warnings"])
    assert read(tmp_path, "cut/checkpoints/head.safetensors") == read(tmp_path, "whole/checkpoints/head.safetensors")
    assert read(tmp_path, "cut/report.json") == read(tmp_path, "whole/report.json")


async def test_a_training_whose_checkpoint_cannot_be_read_begins_anew_and_says_so(
    service: Service, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = train_job()
    with monkeypatch.context() as patch:
        failing_in_epoch(2, patch, full)
        await service.handle(job)
    (tmp_path / "store/train/checkpoints/head.safetensors").write_bytes(b"damaged")
    reply = await service.handle(job)
    assert any("cannot be read" in warning for warning in reply["warnings"])
    assert heads.from_bytes(read(tmp_path, "train/checkpoints/head.safetensors")).about["epochs"] == 2


@pytest.mark.parametrize(
    ("fail", "code", "field", "words"),
    [
        (full, "OUT_OF_MEMORY", "batch_size", "batch_size 2"),
        (lambda: torch.tensor(torch.nan, requires_grad=True), "INVALID_INPUT", "lr", "not finite in epoch 2"),
    ],
)
async def test_a_training_that_fails_names_what_to_change_and_keeps_the_checkpoint(
    service: Service, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fail: Callable[[], Tensor], code: str,
    field: str, words: str,
) -> None:  # fmt: skip
    failing_in_epoch(2, monkeypatch, fail)
    reply = await service.handle(train_job())
    assert (reply["code"], reply["details"]["field"]) == (code, field)
    assert words in reply["error"]
    assert "checkpoint of epoch 1 is kept" in reply["error"]
    assert reply["details"]["stored"]["keys"] == ["train/checkpoints/head.safetensors"]
    assert heads.from_bytes(read(tmp_path, "train/checkpoints/head.safetensors")).about["epochs"] == 1


# -- bad input ----------------------------------------------------------------------------------


def broken(files: dict[str, bytes], name: str) -> dict[str, bytes]:
    return {**files, name: files[name][:200]}


GOOD = people(2, 2)
PICTURE = data_uri(photo(1), "image/png")


def torch_file(content: Any, legacy: bool = False) -> bytes:
    file = io.BytesIO()
    torch.save(content, file, _use_new_zipfile_serialization=not legacy)
    return file.getvalue()


@pytest.mark.parametrize(
    ("dataset", "words"),
    [
        (zipped({"people/a.png": photo(1)}), "no seed_* directory"),
        (zipped(GOOD, ("data/seed_9",)), "seed_9 is empty"),
        (zipped({**GOOD, "data/seed_9/other.png": photo(1)}), "seed_9 holds no photo_view_*.png"),
        (zipped(broken(GOOD, "data/seed_1/photo_view_1.png")), "dataset[data/seed_1/photo_view_1.png] is damaged"),
        (zipped({**GOOD, "more/seed_1/photo_view_0.png": photo(1)}), "the same name"),
        (zipped({**GOOD, "data/seed_1/caption.txt": b"  "}), "seed_1/caption.txt is empty"),
        (zipped({**GOOD, "data/seed_1/caption.txt": b"\xff\xfe\x00\xd8"}), "seed_1/caption.txt is no text"),
        (data_uri(b"PK\x03\x04 no zip", "application/zip"), "no zip"),
        ("s3://bucket/people/", "no bucket"),
    ],
)
async def test_a_bad_dataset_is_named(service: Service, tmp_path: Path, dataset: str, words: str) -> None:
    for job in (sweep_job(photos=None, dataset=dataset), train_job(dataset=dataset)):
        reply = await service.handle(job)
        assert words in reply["error"]
        assert reply["details"]["field"].startswith("dataset")
    assert not [name for name in stored(tmp_path) if name.endswith(".png")]


@pytest.mark.parametrize(
    ("fields", "field", "words"),
    [
        ({"alphas": ["0.5"]}, "alphas[0]", "number"),
        ({"alphas": [float("nan")]}, "alphas[0]", "finite"),
        ({"alphas": "0.5,1.0"}, "alphas", "list"),
        ({"alphas": [True]}, "alphas[0]", "number"),
        ({"alphas": [float("inf")]}, "alphas[0]", "finite"),
        ({"alphas": [9.0]}, "alphas[0]", "less than or equal to 8"),
        ({"alphas": []}, "alphas", "at least 1"),
        ({"alphas": [0.3, 0.1 + 0.2]}, "alphas", "0.3 twice"),
        ({"gen_seeds": [1234567, 1234567]}, "gen_seeds", "1234567 twice"),
        ({"gen_seeds": [1.5]}, "gen_seeds[0]", "integer"),
        ({"alphas": [1.0, 1.0]}, "alphas", "twice"),
        ({"alphas": [i / 10 for i in range(51)], "gen_seeds": [1, 2]}, "alphas", "102 cells"),
        ({"photos": None}, "photos", "either photos of one person or a dataset"),
        ({"dataset": zipped(GOOD)}, "photos", "either photos of one person or a dataset"),
        ({"photos": None, "dataset": zipped(GOOD), "caption": "x"}, "caption", "brings its own"),
        ({"height": 100}, "height", "multiple of 16"),
        ({"width": 4096}, "width", "at most"),
        ({"steps": 0}, "steps", "greater than or equal to 1"),
        ({"true_cfg_scale": 4.0}, "true_cfg_scale", "guidance"),
        ({"base_prompt": "~ID~ and ~ID~"}, "base_prompt", "more than once"),
        ({"base_prompt": " "}, "base_prompt", "empty"),
        ({"head": "nowhere/head.safetensors"}, "head", "no such file"),
        ({"head": "../../etc/passwd"}, "head", "no such file"),
        ({"head": data_uri(pickle.dumps({}), "application/octet-stream")}, "head", "a pickle can run code"),
        ({"head": data_uri(torch_file({"a": torch.ones(1)}), "application/octet-stream")}, "head", "a pickle can run"),
        ({"head": data_uri(torch_file({}, legacy=True), "application/octet-stream")}, "head", "a pickle can run"),
        ({"head": data_uri(b"nothing", "application/octet-stream")}, "head", "no safetensors file"),
        ({"head": head_uri(replace(CONFIG, feature_width=64))}, "head", "4 levels of features of width 64"),
        ({"head": head_uri(replace(CONFIG, text_width=96))}, "head", "width 96; these models have 4 of 128 and 128"),
        ({"head": head_uri(replace(CONFIG, levels=3))}, "head", "3 levels"),
        ({"photos": [PICTURE, data_uri(photo(1)[:300], "image/png"), PICTURE]}, "photos[1]", "damaged"),
        ({"other_photos": [PICTURE, data_uri(b"no picture", "image/png")]}, "other_photos[1]", "is text"),
        ({"photos": []}, "photos", "at least 1"),
        ({"photos": [PICTURE] * 9}, "photos", "at most 8"),
        ({"caption": "zq " * 700}, "caption", "the limit is 1024"),
        ({"negative_prompt": "zq " * 700, "guidance": 2.0}, "negative_prompt", "the limit is 1024"),
    ],
)
async def test_a_bad_sweep_is_named(service: Service, fields: dict[str, Any], field: str, words: str) -> None:
    reply = await service.handle(sweep_job(**fields))
    assert words in reply["error"]
    assert reply["details"]["field"] == field


async def test_a_pickle_in_the_store_is_refused_too(service: Service) -> None:
    service.store.put("job-1/head.pt", pickle.dumps({}), "application/octet-stream")
    reply = await service.handle(sweep_job(head="job-1/head.pt"))
    assert "a pickle can run code" in reply["error"]


async def test_a_caption_of_a_dataset_that_is_too_long_is_named(service: Service) -> None:
    dataset = zipped({**GOOD, "data/seed_1/caption.txt": b"zq " * 700})
    for job in (sweep_job(photos=None, dataset=dataset, controls=False), train_job(dataset=dataset)):
        reply = await service.handle(job)
        assert reply["code"] == "INPUT_TOO_LARGE"
        assert "the caption of seed_1 has" in reply["error"]
        assert reply["details"]["field"] == "dataset"


async def test_cells_of_all_people_count(service: Service) -> None:
    alphas = [i / 100 for i in range(51)]
    reply = await service.handle(sweep_job(photos=None, dataset=zipped(GOOD), alphas=alphas))
    assert "102 cells" in reply["error"]


@pytest.mark.parametrize(
    ("fields", "field", "words"),
    [
        ({"dataset": zipped(people(1, 2, captions=False))}, "dataset", "no caption.txt in seed_0"),
        ({"dataset": zipped(people(1, 1)), "objective": "flow", "held_out": 0}, "dataset", "has one photo"),
        ({"dataset": zipped(people(1, 2)), "objective": "flow"}, "held_out", "1 would be left"),
        ({"held_out": 3}, "held_out", "0 would be left"),
        ({"lr": 0.0}, "lr", "greater than 0"),
        ({"rank": 6}, "rank", "multiple of 4"),
        ({"objective": "other"}, "objective", "caption"),
        ({"cosine_weight": 0.0, "mse_weight": 0.0, "rms_weight": 0.0}, "cosine_weight", "above 0"),
    ],
)
async def test_a_bad_training_is_named(service: Service, fields: dict[str, Any], field: str, words: str) -> None:
    reply = await service.handle(train_job(**fields))
    assert words in reply["error"]
    assert reply["details"]["field"] == field


async def test_a_profile_without_a_head_says_where_one_comes_from(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    profile = service.shelf.profile
    headless = replace(service.shelf.spec("image"), head=None)
    monkeypatch.setattr(service.shelf, "profile", replace(profile, models={**profile.models, "image": headless}))
    reply = await service.handle(sweep_job(head=None))
    assert reply["code"] == "INVALID_INPUT"
    assert reply["details"]["field"] == "head"
    assert "train one with injection_train" in reply["error"]


async def test_where_adherence_is_not_known_the_reply_says_that_best_alpha_goes_without(service: Service) -> None:
    cases = [({"controls": False}, "prompt alone was not made"), ({"base_prompt": "~ID~"}, "names nothing")]
    for fields, words in cases:
        reply = await service.handle(sweep_job(**fields))
        assert any("similarity alone" in said and words in said for said in reply["warnings"])
        assert reply["people"]["photo"]["best_alpha"] == 1.0
    reply = await service.handle(sweep_job("judged"))
    assert not any("similarity alone" in said for said in reply["warnings"])


@pytest.mark.parametrize(
    ("taught", "told"),
    [("a portrait of ~ID~", False), ("a portrait of", False), ("a photo of ~ID~", True), ("~ID~", True), (None, False)],
)
async def test_a_prompt_that_begins_otherwise_than_the_heads_own_is_told(
    service: Service, taught: str | None, told: bool
) -> None:
    head = heads.to_bytes(Head(heads.untrained(CONFIG, 0), {} if taught is None else {"base_prompt": taught}))
    reply = await service.handle(sweep_job(head=data_uri(head, "application/octet-stream")))
    assert any("the head was trained on" in said for said in reply["warnings"]) == told


async def test_a_reply_as_data_holds_the_cells(service: Service) -> None:
    reply = await service.handle(sweep_job())
    assert {image["seed"] for image in reply["images"]} == {7}
    data = base64.b64decode(reply["images"][0]["url"].split(",", 1)[1])
    assert pixels(data).shape == (128, 128, 3)
