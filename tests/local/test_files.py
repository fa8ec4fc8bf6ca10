"""The store folder over HTTP: what is in it, and nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest

from darkroom.local.files import locate


@pytest.fixture
def store(tmp_path: Path) -> Path:
    store = tmp_path / "store"
    (store / "job").mkdir(parents=True)
    (store / "job" / "image_0000.png").write_bytes(b"png")
    (store / ".spool").mkdir()
    (store / ".spool" / "x.json").write_text("secret")
    (store / "job" / ".hidden").write_text("secret")
    (tmp_path / "outside.txt").write_text("secret")
    (store / "link.txt").symlink_to(tmp_path / "outside.txt")
    (store / "way").symlink_to(tmp_path)
    (store / "seen").symlink_to(store / ".spool")
    return store


def test_a_result_is_found(store: Path) -> None:
    assert locate(store, "job/image_0000.png").read_bytes() == b"png"


@pytest.mark.parametrize("path", [
    "../outside.txt", "job/../../outside.txt", "/../outside.txt", "link.txt", "way/outside.txt", "way/store/job/../..",
    ".spool/x.json", "job/.hidden", "seen/x.json", "./.spool/x.json", "job", "", "/", "missing", "job/image_0000.png/x",
    "..\\outside.txt", "a\x00b", "x" * 5_000,
])
def test_nothing_else_is(store: Path, path: str) -> None:
    assert locate(store, path) is None


def test_an_absolute_path_stays_inside(store: Path, tmp_path: Path) -> None:
    assert locate(store, str(tmp_path / "outside.txt")) is None
