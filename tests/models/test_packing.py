from __future__ import annotations

import importlib.metadata
import json
import resource
import shutil
import signal
import struct
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor

import darkroom
from darkroom.errors import InvalidInput, ModelNotReady
from darkroom.models import packing
from darkroom.models.editor import fit
from darkroom.models.folding import parameter_names
from darkroom.models.packing import writing
from darkroom.models.packing.journal import JOURNAL
from darkroom.models.packing.manifest import MANIFEST
from darkroom.models.packing.streaming import CHUNK_BYTES, stream
from darkroom.models.parts import LOADERS
from darkroom.models.placement import EMBEDDINGS, PARTS, occupied_bytes
from darkroom.models.shelf import Shelf
from darkroom.models.specs import ModelSpec, Precision, Profile
from darkroom.models.weights import PARTIAL
from darkroom.technique.sampling import sample

CPU = {part: torch.device("cpu") for part in PARTS}


@pytest.fixture(scope="module")
def artifact(family: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The random family, packed in float32. Read only."""
    return packed(family, tmp_path_factory.mktemp("packed") / "float32")


def packed(family: Path, out: Path, precision: Precision = "float32") -> Path:
    packing.pack(ModelSpec(str(family)), out, "pocket", precision)
    return out


def copied(folder: Path, to: Path) -> Path:
    return Path(shutil.copytree(folder, to))


def with_model(profile: Profile, folder: Path, precision: Precision = "float32") -> Profile:
    return replace(profile, precision=precision, models={"edit": replace(profile.models["edit"], repo=str(folder))})


def rendered(profile: Profile) -> Tensor:
    editor = Shelf(profile).editor("edit")
    references = editor.reference([Image.new("RGB", (128, 128), "teal")])
    conditioning = editor.condition(["make it red"], references, " ")
    latents = editor.noise([1], 128, 128)
    for step in sample(editor.denoiser(conditioning, 128, 128, 4.0), latents, editor.sigmas(2, 128, 128)):
        latents = step.latents
    return editor.decode(latents, 128, 128)


# -- equal to what was packed -----------------------------------------------------------------------


@pytest.mark.parametrize("precision", ["float32", "bf16", "fp8", "int8"])
def test_an_edit_by_a_packed_model_is_bit_for_bit_that_of_the_unpacked_one(
    profile: Profile, family: Path, tmp_path: Path, precision: Precision
) -> None:
    folder = packed(family, tmp_path / "packed", precision)
    assert torch.equal(
        rendered(with_model(profile, folder, precision)), rendered(with_model(profile, family, precision))
    )


def test_every_tensor_of_the_source_is_in_one_section_and_none_is_in_two(family: Path, artifact: Path) -> None:
    manifest = packing.read_manifest(artifact)
    files = [file for section in manifest.sections if section != packing.TABLES for file in manifest.sections[section]]
    names = [name for file in files for name in load_file(artifact / file.name)]
    assert len(names) == len(set(names)) == sum(len(load_file(p)) for p in family.rglob("*.safetensors"))


def test_a_cold_start_reads_neither_modulation_nor_embeddings(artifact: Path) -> None:
    for section in ("modulation", "embeddings"):
        assert packing.read_manifest(artifact).size(section) > 0
    transformer = packing.load(artifact, CPU).parts["transformer"].result()
    whole = packing.load(artifact, CPU, folded=False).parts["transformer"].result()
    left = {name for name, _ in whole.named_parameters()} - {name for name, _ in transformer.named_parameters()}
    assert left == set(parameter_names(len(whole.transformer_blocks)))
    assert occupied_bytes(whole) - occupied_bytes(transformer) > 8_000_000


@pytest.mark.parametrize("preset", ["fast", "balanced", "quality"])
@pytest.mark.parametrize("aspect", [1.0, 4 / 5, 3 / 2, 9 / 16])
def test_a_presets_schedule_finds_its_table_made(
    profile: Profile, with_tables: Profile, preset: str, aspect: float
) -> None:
    spec, editor = profile.models["edit"], Shelf(with_tables).editor("edit")
    width, height = fit(spec.areas.vae, aspect)
    sigmas = editor.sigmas(spec.presets[preset].steps, width, height, spec.presets[preset].shift)
    for timestep in (sigmas[:-1] * 1000) / 1000:
        editor.forward.folding.at(float(timestep), torch.float32)
    assert editor.forward.folding.computed == 0


@pytest.fixture(scope="module")
def with_tables(profile: Profile, tmp_path_factory: pytest.TempPathFactory) -> Profile:
    out = tmp_path_factory.mktemp("packed") / "tables"
    packing.pack(profile.models["edit"], out, "pocket", "float32")
    return with_model(profile, out)


def test_tables_made_ahead_are_found_beside_a_cache_folder_of_the_settings_which_takes_the_new_ones(
    with_tables: Profile, tmp_path: Path
) -> None:
    folder = Path(with_tables.models["edit"].repo)
    made = {path.name for path in (folder / packing.TABLES).iterdir()}
    spec, editor = with_tables.models["edit"], Shelf(replace(with_tables, cache_dir=tmp_path)).editor("edit")
    for steps, computed in ((spec.presets["balanced"].steps, 0), (7, 1)):
        second = editor.sigmas(steps, 128, 128)[1] * 1000 / 1000  # every schedule begins at 1
        editor.forward.folding.at(float(second), torch.float32)
        assert editor.forward.folding.computed == computed
    assert len(list((tmp_path / "modulation").iterdir())) == 1
    assert {path.name for path in (folder / packing.TABLES).iterdir()} == made


def test_a_schedule_that_was_not_foreseen_is_made_once_and_kept(with_tables: Profile, tmp_path: Path) -> None:
    folder = copied(Path(with_tables.models["edit"].repo), tmp_path / "mine")
    for computed in (1, 0):
        editor = Shelf(with_model(with_tables, folder)).editor("edit")
        timestep = editor.sigmas(7, 128, 128)[0] * 1000 / 1000
        editor.forward.folding.at(float(timestep), torch.float32)
        assert editor.forward.folding.computed == computed
    packing.verify(folder)


def test_many_small_files_load_as_one(
    family: Path, artifact: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writing, "SHARD_BYTES", 100_000)
    folder = packed(family, tmp_path / "small")
    assert len(packing.read_manifest(folder).sections["transformer"]) > 10
    one, many = (packing.load(f, CPU, folded=False).wait() for f in (artifact, folder))
    for part in PARTS:
        states = (one[part].state_dict(), many[part].state_dict())
        assert states[0].keys() == states[1].keys()
        assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def test_packed_and_unpacked_parts_of_one_precision_take_the_same_memory(family: Path, tmp_path: Path) -> None:
    folder = packed(family, tmp_path / "fp8", "fp8")
    for part, module in packing.load(folder, CPU, folded=False).wait().items():
        assert occupied_bytes(module) == occupied_bytes(LOADERS[part](family / part, "fp8"))


def test_equal_parts_of_two_artifacts_are_shared(profile: Profile, artifact: Path, tmp_path: Path) -> None:
    other = copied(artifact, tmp_path / "other")
    base = profile.models["edit"]
    models = {"edit": replace(base, repo=str(artifact)), "video": replace(base, repo=str(other))}
    shelf = Shelf(replace(profile, models=models))
    assert shelf.editor("edit").vae is shelf.editor("video").vae


def with_the_other_form(source: Path) -> None:
    path = source / "transformer" / "config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps(config | {"zero_cond_t": not config["zero_cond_t"]}))


def changed_by(name: str) -> Callable[[Path], None]:
    def change(source: Path) -> None:
        path = next((source / "transformer").glob("*.safetensors"))
        tensors = load_file(path)
        save_file({**tensors, name: tensors[name] + 1}, path, {"format": "pt"})

    return change


@pytest.mark.parametrize(
    "change",
    [
        with_the_other_form,
        changed_by("transformer_blocks.1.img_mod.1.bias"),
        changed_by("time_text_embed.timestep_embedder.linear_1.bias"),
    ],
)
def test_transformers_that_differ_in_what_a_cold_start_does_not_read_share_neither_module_nor_tables(
    profile: Profile, family: Path, artifact: Path, tmp_path: Path, change: Callable[[Path], None]
) -> None:
    source = copied(family, tmp_path / "source")
    change(source)
    base = profile.models["edit"]
    folders = {"edit": artifact, "video": packed(source, tmp_path / "other")}
    models = {role: replace(base, repo=str(folder)) for role, folder in folders.items()}
    shelf = Shelf(replace(profile, models=models, cache_dir=tmp_path / "cache"))
    edit, video = shelf.editor("edit"), shelf.editor("video")
    assert edit.transformer is not video.transformer
    assert edit.vae is video.vae
    for editor in (edit, video):
        assert editor.forward.folding is not None
        editor.forward.folding.at(0.5, torch.float32)
        assert editor.forward.folding.computed == 1


def test_the_budget_knows_an_artifact_by_its_manifest(profile: Profile, artifact: Path) -> None:
    with pytest.raises(ModelNotReady, match="DARKROOM_MEMORY_BUDGET_GIB"):
        Shelf(with_model(profile, artifact), budget_bytes=1_000_000).editor("edit")


def test_tensors_that_lie_crooked_are_put_straight(tmp_path: Path) -> None:
    tensors = {
        "a": torch.arange(7, dtype=torch.uint8),
        "b": torch.arange(5, dtype=torch.uint8),
        "c": torch.randn(3, 5).bfloat16(),
    }
    save_file(tensors, tmp_path / "crooked.safetensors")
    got = stream(tmp_path, writing._settled(tmp_path, "crooked.safetensors"), torch.device("cpu"))
    assert all(torch.equal(got[name], tensors[name]) and got[name].data_ptr() % 16 == 0 for name in tensors)


def test_files_larger_than_one_read_arrive_whole(tmp_path: Path) -> None:
    tensors = {"a": torch.randint(0, 255, (CHUNK_BYTES + 12_345,), dtype=torch.uint8)}
    save_file(tensors, tmp_path / "large.safetensors")
    got = stream(tmp_path, writing._settled(tmp_path, "large.safetensors"), torch.device("cpu"))
    assert torch.equal(got["a"], tensors["a"])


# -- what is damaged is named -----------------------------------------------------------------------


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-10])


@pytest.mark.parametrize(
    ("harm", "words"), [(flip, "is damaged"), (cut, "bytes and should have"), (Path.unlink, "is missing")]
)
@pytest.mark.parametrize("section", ["transformer", "text_encoder", "vae"])
def test_a_damaged_file_is_named_by_verify_and_by_loading(
    profile: Profile, artifact: Path, tmp_path: Path, section: str, harm: Callable[[Path], None], words: str
) -> None:
    folder = copied(artifact, tmp_path / "harmed")
    file = packing.read_manifest(folder).sections[section][0].name
    harm(folder / file)
    for use in (lambda: packing.verify(folder), lambda: Shelf(with_model(profile, folder)).editor("edit")):
        with pytest.raises(ModelNotReady, match=rf"{file}.*{words}.*darkroom pack"):
            use()


def with_a_length_too_large(path: Path) -> None:
    path.write_bytes(struct.pack("<Q", 2**40) + path.read_bytes()[8:])


@pytest.mark.parametrize("section", [*PARTS, "modulation", "embeddings"])
def test_a_file_whose_header_is_damaged_is_named(
    profile: Profile, artifact: Path, tmp_path: Path, section: str
) -> None:
    folder = copied(artifact, tmp_path / "harmed")
    with_a_length_too_large(folder / section / "00001.safetensors")
    with pytest.raises(ModelNotReady, match=f"{section}/00001.safetensors is damaged"):
        Shelf(with_model(profile, folder)).editor("edit")


@pytest.mark.parametrize("section", ["modulation", "embeddings"])
def test_what_a_cold_start_does_not_read_is_checked_by_verify(artifact: Path, tmp_path: Path, section: str) -> None:
    folder = copied(artifact, tmp_path / "harmed")
    flip(folder / section / "00001.safetensors")
    with pytest.raises(ModelNotReady, match=f"{section}/00001.safetensors is damaged"):
        packing.verify(folder)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda text: text[:50], "damaged"),
        (lambda text: text.replace('"format": 1', '"format": 7'), "format 7"),
        (lambda text: text.replace('"precision": "float32"', '"precision": "none"'), "damaged"),
        (lambda text: text.replace("vae/00001", "../vae/00001"), "outside its folder"),
    ],
)
def test_a_manifest_that_does_not_fit_says_what_to_do(
    profile: Profile, artifact: Path, tmp_path: Path, change: Callable[[str], str], words: str
) -> None:
    folder = copied(artifact, tmp_path / "other")
    (folder / MANIFEST).write_text(change((folder / MANIFEST).read_text()))
    with pytest.raises(ModelNotReady, match=rf"{words}.*darkroom pack"):
        Shelf(with_model(profile, folder)).editor("edit")


def test_a_folder_that_is_no_artifact_is_not_called_a_damaged_one(family: Path) -> None:
    with pytest.raises(ModelNotReady, match=rf"{family.name} is no packed artifact.*{MANIFEST}"):
        packing.verify(family)


def test_an_artifact_of_another_precision_says_how_to_pack_for_this_worker(profile: Profile, artifact: Path) -> None:
    with pytest.raises(ModelNotReady, match=r"--profile pocket.*DARKROOM_PRECISION=float32"):
        Shelf(with_model(profile, artifact, "bf16")).editor("edit")


# -- packing ----------------------------------------------------------------------------------------


def test_an_interrupted_pack_is_never_loaded(profile: Profile, family: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    partial = broken_off(family, out)
    for folder, words in ((out, "darkroom pack"), (partial, "never finished")):
        with pytest.raises(ModelNotReady, match=words):
            Shelf(with_model(profile, folder)).editor("edit")


def broken_off(family: Path, out: Path) -> Path:
    """The folder of a pack that ended when all but its tables were written."""
    with pytest.raises(KeyboardInterrupt):
        packing.pack(ModelSpec(str(family)), out, "pocket", "float32", interrupted)
    return out.with_name(out.name + PARTIAL)


def interrupted(what: str, _done: int, _total: int) -> None:
    """Nothing is tidied up after it, as after a kill."""
    if what == packing.TABLES:
        raise KeyboardInterrupt


KILLED = """
import os, signal, sys
from pathlib import Path
from darkroom.models import packing
from darkroom.models.packing import writing
from darkroom.models.specs import ModelSpec

def kill(what, done, total):
    if what == "transformer" and done > 0.6 * total:
        os.kill(os.getpid(), signal.SIGKILL)

writing.SHARD_BYTES = int(sys.argv[3])
packing.pack(ModelSpec(sys.argv[1]), Path(sys.argv[2]), "pocket", "float32", kill)
"""


def test_a_pack_that_was_killed_goes_on_and_makes_the_same_artifact(
    family: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writing, "SHARD_BYTES", 2_000_000)
    out, heard = tmp_path / "out", list[str]()
    words = [str(family), str(out), str(writing.SHARD_BYTES)]
    killed = subprocess.run([sys.executable, "-c", KILLED, *words], check=False)
    assert killed.returncode == -signal.SIGKILL
    partial = out.with_name(out.name + PARTIAL)
    finished = [line["file"]["name"] for line in map(json.loads, (partial / JOURNAL).read_text().splitlines()[1:])]
    before = {name: (partial / name).stat().st_ino for name in finished}
    assert any(name.startswith("transformer/") for name in finished)
    manifest = packing.pack(ModelSpec(str(family)), out, "pocket", "float32", tell=heard.append)
    assert heard == [f"going on after {len(finished)} files ({sum_gb(out, finished):.2f} GB) of the interrupted pack"]
    assert {name: (out / name).stat().st_ino for name in finished} == before
    assert content(manifest) == content(packing.read_manifest(packed(family, tmp_path / "whole")))
    assert packing.verify(out) == manifest
    assert not (out / JOURNAL).exists()
    assert not partial.exists()


def content(manifest: packing.Manifest) -> dict[str, list[Any]]:
    """What is in an artifact. Tables go by name: safetensors writes their two lines of metadata in any order."""
    sections = {name: [*files] for name, files in manifest.sections.items()}
    return {**sections, packing.TABLES: [file.name for file in sections[packing.TABLES]], "other": [*manifest.other]}


def sum_gb(folder: Path, names: list[str]) -> float:
    return sum((folder / name).stat().st_size for name in names) / 1e9


def test_finished_files_that_are_damaged_are_made_again(family: Path, artifact: Path, tmp_path: Path) -> None:
    partial = broken_off(family, tmp_path / "out")
    flip(partial / "vae" / "00001.safetensors")
    (partial / "transformer" / "00001.safetensors").unlink()
    (partial / "vae" / "00002.safetensors").write_bytes(b"being written when the pack ended")
    with (partial / JOURNAL).open("a") as journal:
        journal.write('{"section": "vae", "fi')
    again = packing.verify(packed(family, tmp_path / "out"))
    assert content(again) == content(packing.read_manifest(artifact))


@pytest.mark.parametrize("other", ["source", "profile", "precision"])
def test_an_interrupted_pack_of_something_else_starts_over_and_says_why(
    family: Path, tmp_path: Path, other: str
) -> None:
    broken_off(family, tmp_path / "out")
    source, heard = family, list[str]()
    if other == "source":
        source = copied(family, tmp_path / "changed")
        flip(next((source / "vae").glob("*.safetensors")))
    profile, precision = "l4" if other == "profile" else "pocket", "bf16" if other == "precision" else "float32"
    packing.pack(ModelSpec(str(source)), tmp_path / "out", profile, precision, tell=heard.append)
    assert heard == [f"starting over: the interrupted pack was of another {other}"]
    packing.verify(tmp_path / "out")


def test_two_packs_into_one_folder_do_not_meet(family: Path, tmp_path: Path) -> None:
    refused = []

    def second(*_: object) -> None:
        if not refused:
            with pytest.raises(InvalidInput, match="another pack") as error:
                packed(family, tmp_path / "out")
            refused.append(error)

    packing.pack(ModelSpec(str(family)), tmp_path / "out", "pocket", "float32", second)
    packing.verify(tmp_path / "out")


def test_a_folder_in_use_is_left_alone(family: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(InvalidInput, match="not empty"):
        packed(family, tmp_path)
    assert (tmp_path / "mine.txt").read_text() == "mine"


def test_a_disk_that_is_too_small_is_seen_before_anything_is_written(
    family: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=1_000_000))
    with pytest.raises(ModelNotReady, match=r"takes 0\.\d\d GB and .* has 0\.00 GB free"):
        packed(family, tmp_path / "out")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("gigabytes_short", [0, 3])
def test_a_pack_whose_disk_filled_up_keeps_what_is_finished_and_goes_on_from_there(
    family: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gigabytes_short: int
) -> None:
    monkeypatch.setattr(writing, "SHARD_BYTES", 2_000_000)
    out, heard, free = tmp_path / "out", list[str](), shutil.disk_usage(tmp_path)
    most, hard = resource.getrlimit(resource.RLIMIT_FSIZE)

    def fill(what: str, done: int, total: int) -> None:
        if what == "transformer" and done > 0.6 * total:
            resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
            if gigabytes_short:
                left = total - (done - done % 2_000_000)
                monkeypatch.setattr(shutil, "disk_usage", lambda _: free._replace(free=left - 3_000_000_000))

    missing = r", 3\.\d\d GB are missing; " if gigabytes_short else "; "
    try:
        with pytest.raises(ModelNotReady, match=rf"is full{missing}what is finished \(.* is kept in out.partial"):
            packing.pack(ModelSpec(str(family)), out, "pocket", "float32", fill)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (most, hard))
        monkeypatch.setattr(shutil, "disk_usage", lambda _: free)
    partial = out.with_name(out.name + PARTIAL)
    finished = [line["file"]["name"] for line in map(json.loads, (partial / JOURNAL).read_text().splitlines()[1:])]
    there = {str(path.relative_to(partial)) for path in partial.rglob("*") if path.is_file()}
    assert there == {JOURNAL, *finished}
    assert any(name.startswith("transformer/") for name in finished)
    again = packing.pack(ModelSpec(str(family)), out, "pocket", "float32", tell=heard.append)
    assert heard == [f"going on after {len(finished)} files ({sum_gb(out, finished):.2f} GB) of the interrupted pack"]
    assert content(again) == content(packing.verify(out))


def test_a_disk_without_room_for_the_first_file_says_so(family: Path, tmp_path: Path) -> None:
    most, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, hard))
    try:
        with pytest.raises(ModelNotReady, match=r"is full(, .* are missing)?; free some space and pack again$"):
            packed(family, tmp_path / "out")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (most, hard))
    packing.verify(packed(family, tmp_path / "out"))


def without_a_part(folder: Path) -> None:
    shutil.rmtree(folder / "vae")


def of_another_class(folder: Path) -> None:
    path = folder / "transformer" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"_class_name": "FluxTransformer2DModel"}))


def without_a_tensor(folder: Path) -> None:
    path = next((folder / "transformer").glob("*.safetensors"))
    tensors = load_file(path)
    del tensors["img_in.weight"]
    save_file(tensors, path)


def with_a_tensor_too_many(folder: Path) -> None:
    path = next((folder / "text_encoder").glob("*.safetensors"))
    save_file({**load_file(path), "model.layers.9.extra": torch.zeros(2)}, path)


def of_another_shape(folder: Path) -> None:
    path = next((folder / "vae").glob("*.safetensors"))
    tensors = load_file(path)
    save_file({**tensors, "quant_conv.bias": torch.zeros(3)}, path)


def cut_off(folder: Path) -> None:
    path = next((folder / "transformer").glob("*.safetensors"))
    path.write_bytes(struct.pack("<Q", 10_000) + b"{")


@pytest.mark.parametrize(
    ("harm", "words"),
    [
        (without_a_part, "no part 'vae'"),
        (of_another_class, "FluxTransformer2DModel"),
        (without_a_tensor, "no weight 'img_in.weight'"),
        (with_a_tensor_too_many, "extra"),
        (of_another_shape, r"'quant_conv.bias' is \[3\]"),
        (cut_off, "no safetensors file"),
    ],
)
def test_a_source_that_is_no_whole_model_says_what_is_wrong(
    family: Path, tmp_path: Path, harm: Callable[[Path], None], words: str
) -> None:
    source = copied(family, tmp_path / "source")
    harm(source)
    with pytest.raises(ModelNotReady, match=words):
        packed(source, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_embeddings_are_mapped_and_equal(family: Path, artifact: Path) -> None:
    encoder = packing.load(artifact, {"text_encoder": torch.device("cpu")}).wait()["text_encoder"]
    reference = LOADERS["text_encoder"](family / "text_encoder", "float32")
    assert torch.equal(encoder.get_input_embeddings().weight, reference.get_input_embeddings().weight)
    assert EMBEDDINGS not in dict(encoder.named_parameters())


def test_a_checkpoint_is_packed_where_the_source_is_not_installed_as_a_package(
    family: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in the image, which has it on PYTHONPATH."""

    def version(name: str) -> str:
        if name == "darkroom":
            raise PackageNotFoundError(name)
        return installed(name)

    installed = importlib.metadata.version
    monkeypatch.setattr(writing, "version", version)
    assert packing.read_manifest(packed(family, tmp_path / "out")).versions["darkroom"] == darkroom.__version__


def test_the_manifest_knows_its_source_by_content(family: Path, artifact: Path, tmp_path: Path) -> None:
    again = packing.read_manifest(packed(copied(family, tmp_path / "copy"), tmp_path / "again"))
    changed = copied(family, tmp_path / "changed")
    flip(next((changed / "vae").glob("*.safetensors")))
    other = packing.read_manifest(packed(changed, tmp_path / "other"))
    first = packing.read_manifest(artifact)
    assert first.source.fingerprint == again.source.fingerprint != other.source.fingerprint
    assert str(tmp_path) not in (tmp_path / "again" / MANIFEST).read_text()
