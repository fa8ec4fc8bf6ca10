"""Edits to learn from, as a zip of folders: `source`, `target`, `prompt.txt` and, it may be, `sight` and `sharp`."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from PIL import Image

from darkroom.errors import DecodeFailed, InputTooLarge, InvalidInput
from darkroom.jobs import Limits
from darkroom.media.archive import ZipPictures, natural
from darkroom.media.pictures import decode_image

NEEDED = ("source", "target")
OFFERED = ("sight", "sharp")
PROMPT = "prompt.txt"


@dataclass(frozen=True)
class TripleFiles:
    """One folder: its name, numbers of the archive's pictures by their role, and the instruction."""

    name: str
    pictures: Mapping[str, int]
    prompt: str


class TripleArchive:
    """A zip of such folders, anywhere in it; nothing is unpacked to disk.

    Raises DecodeFailed for what is no zip, InvalidInput for no triple or one that lacks something, which it names.
    """

    def __init__(self, path: Path, field: str, limits: Limits) -> None:
        self.field, self._limits = field, limits
        self._pictures = ZipPictures(path, field, limits)
        folders: dict[PurePosixPath, dict[str, int]] = {}
        for index in range(len(self._pictures)):
            entry = PurePosixPath(self._pictures.path(index))
            if entry.stem in (*NEEDED, *OFFERED):
                folders.setdefault(entry.parent, {})[entry.stem] = index
        prompts = _prompts(path, field, limits.max_prompt_chars)
        for folder in prompts:
            folders.setdefault(folder, {})
        if not folders:
            raise InvalidInput(f"{field} holds no folder with source, target and {PROMPT}", field=field)
        self.triples = [
            self._whole(folder, pictures, prompts)
            for folder, pictures in sorted(folders.items(), key=lambda item: natural(str(item[0])))
        ]

    def picture(self, number: int) -> Image.Image:
        """One picture as 8-bit RGB. Raises DecodeFailed or InputTooLarge, which name its folder and file."""
        return decode_image(self._pictures.read(number), self._pictures.name(number), self._limits).image

    def _whole(
        self, folder: PurePosixPath, pictures: Mapping[str, int], prompts: Mapping[PurePosixPath, str]
    ) -> TripleFiles:
        name = folder.name or self.field
        for role in NEEDED:
            if role not in pictures:
                raise InvalidInput(f"{self.field}: {name} has no {role} picture", field=self.field)
        if not prompts.get(folder):
            raise InvalidInput(f"{self.field}: {name} has no {PROMPT}, or an empty one", field=self.field)
        return TripleFiles(name, pictures, prompts[folder])


def write_triples(path: Path, triples: Iterable[tuple[str, str, Mapping[str, Image.Image]]]) -> int:
    """Write (name, prompt, pictures by role) as such a zip; how many there were."""
    count = 0
    with zipfile.ZipFile(path, "w") as archive:
        for name, prompt, pictures in triples:
            archive.writestr(f"{name}/{PROMPT}", prompt)
            for role, picture in pictures.items():
                file = io.BytesIO()
                picture.save(file, "PNG")
                archive.writestr(f"{name}/{role}.png", file.getvalue())
            count += 1
    return count


def _prompts(path: Path, field: str, most: int) -> dict[PurePosixPath, str]:
    found = {}
    try:
        with zipfile.ZipFile(path) as archive:
            for info in archive.infolist():
                entry = PurePosixPath(info.filename)
                if entry.name != PROMPT:
                    continue
                if info.file_size > 4 * most:
                    raise InputTooLarge(f"{field}: {entry} is longer than {most} characters", field=field)
                found[entry.parent] = archive.read(info).decode("utf-8-sig").strip()
    except (zipfile.BadZipFile, OSError, RuntimeError, NotImplementedError, UnicodeDecodeError) as error:
        raise DecodeFailed(f"{field}: {PROMPT} cannot be read", field=field) from error
    return found
