"""The list of finished files in an unfinished artifact, by which an interrupted pack goes on."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from darkroom.models.packing.manifest import File

JOURNAL = "unfinished.jsonl"
"""First what is packed, then a line for each file that is on the disk for good."""

Tell = Callable[[str], None]
"""Says a sentence to whoever packs."""


class Finished(BaseModel):
    """One file, the section that it belongs to, and the source's tensors in it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    section: str
    file: File
    tensors: tuple[str, ...] = ()


class Journal:
    """Finished files of `folder`, as an earlier pack has left them; whatever else lies there is removed.

    made_from: what decides a file's content, by its name for people; where an earlier pack differs, nothing of it is
    taken and `tell` hears why. A file that is not as it was written is made again, with those after it in its section.
    """

    def __init__(self, folder: Path, made_from: Mapping[str, str], tell: Tell) -> None:
        self._path = folder / JOURNAL
        self.finished = _found(folder, made_from, tell)
        _remove_others(folder, {JOURNAL, *(one.file.name for one in self.finished)})
        beside = self._path.with_suffix(".new")
        beside.write_text("".join(f"{line}\n" for line in (json.dumps(made_from), *map(_line, self.finished))))
        beside.replace(self._path)

    def add(self, finished: Finished) -> None:
        """Note a file that is on the disk for good."""
        with self._path.open("a") as file:
            file.write(_line(finished) + "\n")
            file.flush()
            os.fsync(file.fileno())

    def close(self) -> None:
        """The artifact is whole."""
        self._path.unlink()


def keep_finished(folder: Path) -> int:
    """Remove from an unfinished artifact what its journal does not list as finished; the bytes that are left.

    A folder without a journal loses nothing here: the next pack decides.
    """
    try:
        _, *lines = (folder / JOURNAL).read_text().splitlines()
    except (OSError, ValueError):
        return 0
    finished = {one.file.name for one in _listed(lines)}
    _remove_others(folder, {JOURNAL, *finished})
    return sum((folder / name).stat().st_size for name in finished if (folder / name).is_file())


def _line(finished: Finished) -> str:
    return finished.model_dump_json()


def _found(folder: Path, made_from: Mapping[str, str], tell: Tell) -> list[Finished]:
    if not any(folder.iterdir()):
        return []
    try:
        head, *lines = (folder / JOURNAL).read_text().splitlines()
        earlier = dict(json.loads(head))
    except (OSError, ValueError, TypeError):
        tell("starting over: the interrupted pack has left no list of what it had finished")
        return []
    other = next((name for name, value in made_from.items() if earlier.get(name) != value), None)
    if other is not None:
        tell(f"starting over: the interrupted pack was of another {other}")
        return []
    whole = _whole(folder, lines)
    size = sum(one.file.bytes for one in whole)
    tell(f"going on after {len(whole)} files ({size / 1e9:.2f} GB) of the interrupted pack")
    return whole


def _whole(folder: Path, lines: list[str]) -> list[Finished]:
    """The files that are as they were written, in each section up to the first that is not."""
    whole, ended = list[Finished](), set[str]()
    for one in _listed(lines):
        if one.section not in ended and _is_as_written(folder, one.file):
            whole.append(one)
        else:
            ended.add(one.section)
    return whole


def _listed(lines: list[str]) -> list[Finished]:
    listed = []
    for line in lines:
        try:
            listed.append(Finished.model_validate_json(line))
        except ValidationError:  # the line that was being written when the pack ended
            break
    return listed


def _is_as_written(folder: Path, file: File) -> bool:
    path = folder / file.name
    if not path.is_file() or path.stat().st_size != file.bytes:
        return False
    with path.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest() == file.sha256


def _remove_others(folder: Path, kept: set[str]) -> None:
    for path in sorted(folder.rglob("*"), reverse=True):
        if path.is_dir() and not path.is_symlink():
            if not any(path.iterdir()):
                path.rmdir()
        elif str(path.relative_to(folder)) not in kept:
            path.unlink()
