"""People as folders of photos: a zip of `seed_*` directories with `photo_view_*.png` and, it may be, `caption.txt`."""

from __future__ import annotations

import re
import zipfile
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from PIL import Image

from darkroom.errors import DecodeFailed, InputTooLarge, InvalidInput
from darkroom.jobs import Limits
from darkroom.media.archive import ZipPictures, natural
from darkroom.media.pictures import decode_image

CAPTION = "caption.txt"
_MOST_CAPTION_BYTES = 8_000
_DIRECTORY = re.compile(r"seed_[A-Za-z0-9_-]{1,100}")
_PHOTO = re.compile(r"photo_view_.*\.(png|jpe?g|webp)", re.IGNORECASE)


@dataclass(frozen=True)
class Person:
    """One directory: its name, its photos as numbers of the archive's pictures in their order, its caption."""

    name: str
    photos: tuple[int, ...]
    caption: str | None = None


class PeopleArchive:
    """A zip of `seed_*` directories, anywhere in it; nothing is unpacked to disk.

    Raises DecodeFailed for what is no zip; InvalidInput for no such directory, one without photos, which it names, or
    two of one name. The zip's bytes are limited where it is fetched, its pictures are not counted.
    """

    def __init__(self, path: Path, field: str, limits: Limits) -> None:
        self.field, self._limits = field, limits
        directories = _directories(path, field)
        if not directories:
            raise InvalidInput(
                f"{field} holds no seed_* directory; each person is one, with photo_view_*.png in it", field=field
            )
        photos = {name: [entry for entry in inside if _PHOTO.fullmatch(entry.name)] for name, inside in directories}
        for name, found in photos.items():
            if not found:
                what = "is empty" if not dict(directories)[name] else "holds no photo_view_*.png"
                raise InvalidInput(f"{field}: {name} {what}", field=field)
        if len(photos) != len(directories):
            raise InvalidInput(f"{field}: two directories have the same name", field=field)
        self._pictures = ZipPictures(path, field, limits)
        numbers = {self._pictures.path(index): index for index in range(len(self._pictures))}
        self.people = tuple(
            Person(name, tuple(numbers[str(entry)] for entry in sorted(found, key=lambda entry: natural(entry.name))),
                   _caption(path, field, name, dict(directories)[name]))
            for name, found in sorted(photos.items(), key=lambda item: natural(item[0]))
        )  # fmt: skip

    def photo(self, number: int) -> Image.Image:
        """One photo as 8-bit RGB. Raises DecodeFailed or InputTooLarge, which name its directory and file."""
        return decode_image(self._pictures.read(number), self._pictures.name(number), self._limits).image


def _directories(path: Path, field: str) -> list[tuple[str, list[PurePosixPath]]]:
    """(name, files) of every seed_* directory, also an empty one."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
        raise DecodeFailed(f"{field} is no zip, or a damaged one", field=field) from error
    found: dict[PurePosixPath, list[PurePosixPath]] = {}
    for name in names:
        entry = PurePosixPath(name)
        for folder in (entry, *entry.parents) if name.endswith("/") else entry.parents:
            if _DIRECTORY.fullmatch(folder.name):
                inside = found.setdefault(folder, [])
                if entry.parent == folder and not name.endswith("/"):
                    inside.append(entry)
    return [(folder.name, inside) for folder, inside in found.items()]


def _caption(path: Path, field: str, name: str, inside: list[PurePosixPath]) -> str | None:
    """What `caption.txt` says. Raises InvalidInput where it says nothing, or is no text."""
    entry = next((entry for entry in inside if entry.name == CAPTION), None)
    if entry is None:
        return None
    try:
        with zipfile.ZipFile(path) as archive, archive.open(str(entry)) as file:
            data = file.read(_MOST_CAPTION_BYTES + 1)
        text = data.decode("utf-8-sig").strip()
    except (zipfile.BadZipFile, OSError, RuntimeError, NotImplementedError, UnicodeDecodeError) as error:
        raise InvalidInput(f"{field}: {name}/{CAPTION} is no text", field=field) from error
    if len(data) > _MOST_CAPTION_BYTES:
        raise InputTooLarge(f"{field}: {name}/{CAPTION} is longer than {_MOST_CAPTION_BYTES} bytes", field=field)
    if not text:
        raise InvalidInput(f"{field}: {name}/{CAPTION} is empty", field=field)
    return text


def centre_crop(image: Image.Image) -> Image.Image:
    """The largest square in the middle."""
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    return image.crop((left, top, left + side, top + side))
