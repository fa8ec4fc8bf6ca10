"""Folders of trained parts: how a family is recognised, and how one takes another's place as a whole."""

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from darkroom.models.weights import CHECKSUMS


def is_family(folder: Path) -> bool:
    """Whether diffusers finds a pipeline there."""
    return (folder / "model_index.json").is_file()


def is_sealed(folder: Path) -> bool:
    """Whether it holds a part with its checksums."""
    return (folder / CHECKSUMS).is_file()


@contextmanager
def replaced(folder: Path, is_ours: Callable[[Path], bool]) -> Iterator[Path]:
    """An empty folder that takes the place of `folder` when the block ends; where it fails, `folder` stays as it was.

    Who is killed meanwhile leaves the folder that was there; between the last two moves it lies beside, as
    NAME.replaced, and the next call brings it back. Nothing is removed there that `is_ours` does not know.
    """
    aside, unfinished = (folder.with_name(f"{folder.name}.{ending}") for ending in ("replaced", "writing"))
    if is_ours(aside) and not folder.exists():
        aside.rename(folder)
    if unfinished.exists():
        shutil.rmtree(unfinished)
    unfinished.mkdir(parents=True)
    yield unfinished
    if is_ours(aside):
        shutil.rmtree(aside)
    if folder.exists():
        folder.rename(aside)
    unfinished.rename(folder)
    if aside.exists():
        shutil.rmtree(aside)
