"""What a packed artifact says of itself, and whether its files still are what was written."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from darkroom.errors import ModelNotReady
from darkroom.models.specs import Precision

MANIFEST = "packed.json"
FORMAT = 1
"""Raised whenever a reader of the last format would read a new artifact wrongly."""

APART = {"transformer": ("modulation",), "text_encoder": ("embeddings",)}
"""Sections that hold the rest of a part."""

Progress = Callable[[str, int, int], None]
"""(what, bytes done, bytes in all)."""

_AGAIN = "pack it again with `darkroom pack`"


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class File(_Frozen):
    """One file of the artifact; name is relative to its folder.

    crc32: what a load compares on the way, since it takes a fifth of the processor's time that sha256 takes, which
    `verify` compares.
    """

    name: str
    bytes: int
    sha256: str
    crc32: int


class Source(_Frozen):
    """The checkpoint that was packed. fingerprint: over the names and contents of its weights and configurations."""

    id: str
    revision: str | None
    fingerprint: str


class Manifest(_Frozen):
    """The whole of packed.json. sections: files of weights by what they hold; other: configurations and the like."""

    format: int
    profile: str
    precision: Precision
    source: Source
    versions: dict[str, str]
    sections: dict[str, tuple[File, ...]]
    other: tuple[File, ...]

    @property
    def files(self) -> tuple[File, ...]:
        """Every file but the manifest."""
        return (*(file for section in self.sections.values() for file in section), *self.other)

    def size(self, *sections: str) -> int:
        """Bytes of some sections."""
        return sum(file.bytes for name in sections for file in self.sections.get(name, ()))

    def fingerprint(self, part: str) -> tuple[str, ...]:
        """Equal for equal parts, wherever they lie: precision, configuration, and weights also where they are apart."""
        weights = [file for section in (part, *APART.get(part, ())) for file in self.sections.get(section, ())]
        settings = [file for file in self.other if Path(file.name).parts[0] == part]
        return (self.precision, *(file.sha256 for file in (*weights, *settings)))


def is_packed(folder: Path) -> bool:
    """Whether a folder is a packed artifact (a whole one: the manifest is written last)."""
    return (folder / MANIFEST).is_file()


def read_manifest(folder: Path) -> Manifest:
    """Raises ModelNotReady for a manifest that is missing, unreadable or of another format, and says what to do."""
    if not is_packed(folder):
        raise ModelNotReady(f"{folder.name} is no packed artifact, or one that was never finished: no {MANIFEST}")
    try:
        content = json.loads((folder / MANIFEST).read_text())
        version = content["format"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelNotReady(f"{folder.name}/{MANIFEST} is damaged; {_AGAIN}") from error
    if version != FORMAT:
        raise ModelNotReady(f"{folder.name} was packed in format {version}, this version reads {FORMAT}; {_AGAIN}")
    try:
        manifest = Manifest.model_validate(content)
    except ValidationError as error:
        raise ModelNotReady(f"{folder.name}/{MANIFEST} is damaged; {_AGAIN}") from error
    for file in manifest.files:
        if Path(file.name).is_absolute() or ".." in Path(file.name).parts:
            raise ModelNotReady(f"{folder.name}/{MANIFEST} names a file outside its folder; {_AGAIN}")
    return manifest


def check_precision(folder: Path, manifest: Manifest, precision: Precision, profile: str) -> None:
    """Raise ModelNotReady where the artifact was packed for another precision than the worker runs."""
    if manifest.precision != precision:
        raise ModelNotReady(
            f"{folder.name} is packed in {manifest.precision} (profile {manifest.profile}), and this worker runs "
            f"profile {profile} in {precision}: pack the checkpoint with --profile {profile}, or set "
            f"DARKROOM_PRECISION={manifest.precision} where the chip can do that"
        )


def verify(folder: Path, progress: Progress | None = None) -> Manifest:
    """Read every file of an artifact and compare its SHA-256. Raises ModelNotReady naming the first bad one."""
    manifest = read_manifest(folder)
    done, total = 0, sum(file.bytes for file in manifest.files)
    for file in manifest.files:
        path = folder / file.name
        check_size(folder, file)
        with path.open("rb") as opened:
            if hashlib.file_digest(opened, "sha256").hexdigest() != file.sha256:
                raise damaged(folder, file)
        done += file.bytes
        if progress:
            progress(file.name, done, total)
    return manifest


def check_size(folder: Path, file: File) -> None:
    """Raise ModelNotReady for a file that is missing or of another length."""
    path = folder / file.name
    if not path.is_file():
        raise ModelNotReady(f"{folder.name}/{file.name} is missing; {_AGAIN}")
    if path.stat().st_size != file.bytes:
        raise ModelNotReady(
            f"{folder.name}/{file.name} has {path.stat().st_size} bytes and should have {file.bytes}; {_AGAIN}"
        )


def damaged(folder: Path, file: File) -> ModelNotReady:
    """The error for a file whose content is not what was written."""
    return ModelNotReady(f"{folder.name}/{file.name} is damaged (its checksum is another); {_AGAIN}")
