"""Folders of people and the commands around them, up to where a request would be sent."""

from __future__ import annotations

import base64
import io
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from darkroom.cli import app
from darkroom.cli_inject import _numbers, _parts
from darkroom.client.people import dataset_source, sweep_input, train_input
from darkroom.errors import InvalidInput


def person(folder: Path, photos: int = 1) -> Path:
    folder.mkdir(parents=True)
    for number in range(photos):
        Image.fromarray(np.full((16, 16, 3), 10 * number, np.uint8)).save(folder / f"photo_view_{number}.png")
    (folder / "caption.txt").write_text("a person")
    (folder / "notes.md").write_text("private")
    return folder


def unzipped(uri: str) -> list[str]:
    data = base64.b64decode(uri.split(",", 1)[1])
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return archive.namelist()


def test_directories_and_folders_of_them_become_one_zip_of_what_is_wanted(tmp_path: Path) -> None:
    one, _ = person(tmp_path / "a" / "seed_1"), person(tmp_path / "b" / "seed_2", 2)
    (tmp_path / "b" / "seed_3").mkdir()
    names = unzipped(dataset_source([str(one), str(tmp_path / "b")]))
    assert names == [
        "seed_1/", "seed_1/caption.txt", "seed_1/photo_view_0.png",
        "seed_2/", "seed_2/caption.txt", "seed_2/photo_view_0.png", "seed_2/photo_view_1.png", "seed_3/",
    ]  # fmt: skip
    assert dataset_source([str(one)]) == dataset_source([str(tmp_path / "a")])


def test_addresses_and_zips_go_as_they_are(tmp_path: Path) -> None:
    assert dataset_source(["s3://bucket/people/"]) == "s3://bucket/people/"
    archive = tmp_path / "people.zip"
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("seed_1/photo_view_0.png", b"x")
    assert unzipped(dataset_source([str(archive)])) == ["seed_1/photo_view_0.png"]


def test_what_is_no_folder_of_people_is_named(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"no seed_\* directories in .*empty"):
        dataset_source([str(tmp_path / "empty")])
    with pytest.raises(FileNotFoundError, match="nowhere"):
        dataset_source([str(tmp_path / "nowhere")])
    folder = str(person(tmp_path / "c" / "seed_9"))
    (tmp_path / "people.zip").write_bytes(b"x")
    with pytest.raises(ValueError, match=r"people\.zip is a file; give one zip alone"):
        dataset_source([folder, str(tmp_path / "people.zip")])
    twice = [str(person(tmp_path / name / "seed_1")) for name in ("a", "b")]
    with pytest.raises(ValueError, match="called seed_1"):
        dataset_source(twice)


def test_requests_are_checked_before_they_are_sent(tmp_path: Path) -> None:
    folder = str(person(tmp_path / "seed_1"))
    assert train_input([folder], {"epochs": None, "lr": 0.01})["lr"] == 0.01
    with pytest.raises(InvalidInput, match="epochs"):
        train_input([folder], {"epochs": 0})
    head = tmp_path / "head.safetensors"
    head.write_bytes(b"x")
    assert sweep_input([], [folder], str(head), {})["head"].startswith("data:")
    assert sweep_input([], [folder], "job-1/checkpoints/head.safetensors", {})["head"].startswith("job-1/")
    with pytest.raises(InvalidInput, match="either photos"):
        sweep_input([], [], None, {})


def test_lists_are_separated_by_commas() -> None:
    assert _numbers("0.5, 1.0,2", float, "--alphas") == [0.5, 1.0, 2.0]
    assert _parts(["a,b", "s3://bucket/a,b/"]) == ["a", "b", "s3://bucket/a,b/"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["sweep", "--alphas", "0.5,high"], "--alphas: 'high' is not a number"),
        (["sweep", "--gen-seeds", "1.5"], "--gen-seeds: '1.5' is not a whole number"),
        (["sweep"], "either photos of one person or a dataset"),
        (["train"], "--seed-dirs"),
        (["train", "--seed-dirs", "nowhere"], "no folder at nowhere"),
    ],
)
def test_a_bad_command_is_told_before_anything_is_sent(arguments: list[str], words: str) -> None:
    result = CliRunner().invoke(app, ["inject", *arguments])
    assert result.exit_code == 2
    assert words in " ".join(result.output.split())
