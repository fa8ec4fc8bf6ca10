"""A zip of pictures, read one at a time and never unpacked to disk."""

from __future__ import annotations

import re
import zipfile
import zlib
from pathlib import Path, PurePosixPath

from darkroom.errors import DecodeFailed, InputTooLarge, InvalidInput
from darkroom.jobs import Limits

_PICTURES = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".gif"}
_MOST_RATIO = 500
"""Unpacked over packed size. A blank PNG packs a hundredfold at most; a bomb, a thousandfold and more."""
_RATIO_FROM_BYTES = 2**20
_TOLD = 5


class ZipPictures:
    """The pictures of a zip in the order of their names, numbers counted as numbers (frame_2 before frame_10).

    Hidden files and those of other kinds are left out; `skipped` names the latter. Names are labels only: nothing is
    ever written under them. How many there may be is the caller's to say. Raises DecodeFailed for what is no readable
    zip, InvalidInput for one without pictures.
    """

    def __init__(self, path: Path, field: str, limits: Limits) -> None:
        self.field, self._limits = field, limits
        try:
            self._zip = zipfile.ZipFile(path)
        except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
            raise DecodeFailed(f"{field} is a damaged or incomplete zip", field=field) from error
        members = [info for info in self._zip.infolist() if not info.is_dir() and not _hidden(info.filename)]
        pictures = [info for info in members if PurePosixPath(info.filename).suffix.lower() in _PICTURES]
        self.skipped = [info.filename for info in members if info not in pictures]
        self._members = sorted(pictures, key=lambda info: natural(info.filename))
        if not self._members:
            raise InvalidInput(f"{field} is a zip without pictures{self._others()}", field=field)

    def __len__(self) -> int:
        return len(self._members)

    def name(self, index: int) -> str:
        """How errors call a picture: field[name]."""
        return f"{self.field}[{_printable(self._members[index].filename)}]"

    def path(self, index: int) -> str:
        """A picture's name within the zip: a label, never a place to write to."""
        return self._members[index].filename

    def read(self, index: int) -> bytes:
        """One picture's bytes. Raises InputTooLarge before anything too large is unpacked, or DecodeFailed."""
        info, name, most = self._members[index], self.name(index), self._limits.max_source_bytes
        packed = max(info.compress_size, 1)
        if info.file_size > most:
            raise InputTooLarge(f"{name} unpacks to {info.file_size} bytes, the limit is {most}", field=self.field)
        if info.file_size > _RATIO_FROM_BYTES and info.file_size / packed > _MOST_RATIO:
            raise InputTooLarge(f"{name} unpacks to {info.file_size // packed} times its size", field=self.field)
        if info.flag_bits & 1:
            raise DecodeFailed(f"{name} is encrypted", field=self.field)
        try:
            with self._zip.open(info) as member:
                # The declared size may lie: never more than the limit is read.
                data = member.read(most + 1)
        except (zipfile.BadZipFile, zlib.error, OSError, NotImplementedError, RuntimeError, EOFError) as error:
            raise DecodeFailed(f"{name} is damaged in the zip", field=self.field) from error
        if len(data) > most:
            raise InputTooLarge(f"{name} unpacks to more than {most} bytes, the limit", field=self.field)
        return data

    def notes(self) -> list[str]:
        """A sentence for the reply where files were left out."""
        return [f"{self.field}: left out, as no pictures{self._others()}"] if self.skipped else []

    def _others(self) -> str:
        names = ", ".join(_printable(name) for name in self.skipped[:_TOLD])
        more = f" and {len(self.skipped) - _TOLD} more" if len(self.skipped) > _TOLD else ""
        return f": {names}{more}" if names else ""


def natural(name: str) -> list[tuple[int, int | str]]:
    """A sort key in which runs of digits count as numbers."""
    parts = re.split(r"(\d+)", name.lower())
    return [(0, int(part)) if part.isdigit() and part.isascii() else (1, part) for part in parts if part]


def _hidden(name: str) -> bool:
    """Dot files, and the double that macOS adds of each file."""
    parts = PurePosixPath(name.replace("\\", "/")).parts
    return any((part.startswith(".") and part != "..") or part == "__MACOSX" for part in parts)


def _printable(name: str) -> str:
    text = "".join(character if character.isprintable() else "?" for character in name)
    return text if len(text) <= 80 else f"…{text[-79:]}"
