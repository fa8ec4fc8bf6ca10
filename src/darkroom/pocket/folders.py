"""Folders of trained parts: how a family is recognised, and how one takes another's place as a whole."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def is_family(folder: Path) -> bool:
    """Whether diffusers finds a pipeline there."""
    return (folder / "model_index.json").is_file()


@contextmanager
def replaced(folder: Path) -> Iterator[Path]:
    """An empty folder that takes the place of `folder` when the block ends; where it fails, `folder` stays as it was.

    Both lie beside it, as .NAME.new and .NAME.old. Who is killed between the last two moves finds the old one there,
    whole, and the next call brings it back first.
    """
    new, old = (folder.with_name(f".{folder.name}.{ending}") for ending in ("new", "old"))
    if old.exists() and not folder.exists():
        old.rename(folder)
    for left in (new, old):
        if left.exists():
            shutil.rmtree(left)
    new.mkdir(parents=True)
    yield new
    if folder.exists():
        folder.rename(old)
    new.rename(folder)
    if old.exists():
        shutil.rmtree(old)
