"""Who a job is about: photos from the request or a dataset, fitted, and what the vision model sees of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from PIL import Image, ImageOps
from torch import Tensor

from darkroom.errors import InvalidInput
from darkroom.jobs.injection_sweep import PhotoFit
from darkroom.media import PeopleArchive, centre_crop, decode_image
from darkroom.models.vision import VisionExtractor
from darkroom.technique.injection import combined
from darkroom.workers.recipe import Desk

NAMELESS = "photo"
"""What files are called by where the job brought photos and no directory."""


@dataclass(frozen=True)
class Subject:
    """One person: a name for files, RGB photos as fitted, and what the person looks like in words, where known.

    drawn: the same photos as the pictures to be made of them, where the job asks for those.
    """

    name: str
    photos: tuple[Image.Image, ...]
    caption: str | None = None
    drawn: tuple[Image.Image, ...] = ()


def named(field: str, count: int, job: PhotoFit, desk: Desk) -> tuple[Image.Image, ...]:
    """The job's own photos `field[0]`, `field[1]` …, decoded and fitted; notes on them go to the reply."""
    photos = []
    for number in range(count):
        name = f"{field}[{number}]"
        picture = decode_image(desk.files[name], name, desk.limits)
        for note in picture.notes:
            desk.warn(note)
        photos.append(fitted(picture.image, job))
    return tuple(photos)


def from_dataset(job: PhotoFit, desk: Desk, size: tuple[int, int] | None = None) -> list[Subject]:
    """Everybody in the job's dataset; size: (width, height) of pictures to be made of the photos, where asked for.

    Raises what PeopleArchive raises, and DecodeFailed for a broken photo.
    """
    with desk.clock.span("decode_input"):
        archive = PeopleArchive(desk.clips["dataset"], "dataset", desk.limits)
        subjects = []
        for person in archive.people:
            # From the photo itself: fitted it may have fewer pixels than the picture.
            photos = [archive.photo(number) for number in person.photos]
            drawn = tuple(ImageOps.fit(photo, size, Image.Resampling.LANCZOS) for photo in photos) if size else ()
            subjects.append(Subject(person.name, tuple(fitted(photo, job) for photo in photos), person.caption, drawn))
        return subjects


def fitted(photo: Image.Image, job: PhotoFit) -> Image.Image:
    """The middle square, or the whole, brought down to `photo_pixels` of area where it has more."""
    picture = centre_crop(photo) if job.photo_fit == "crop" else photo
    scale = (job.photo_pixels / (picture.width * picture.height)) ** 0.5
    if scale >= 1:
        return picture
    size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    return picture.resize(size, Image.Resampling.LANCZOS)


def features(eyes: VisionExtractor, photos: Sequence[Image.Image], job: PhotoFit) -> Tensor:
    """[levels, N, D] float32: the DeepStack levels and the final tokens of all photos, visual tokens only."""
    seen = [eyes.look(photo, pixels=job.photo_pixels) for photo in photos]
    return combined([torch.stack([*sight.levels, sight.final]).float() for sight in seen])


def captioned(subjects: Sequence[Subject]) -> None:
    """Raise InvalidInput, naming them, where people have no caption."""
    without = [subject.name for subject in subjects if subject.caption is None]
    if without:
        names = ", ".join(without[:5]) + (f" and {len(without) - 5} more" if len(without) > 5 else "")
        raise InvalidInput(f"dataset: no caption.txt in {names}; the caption objective needs one each", field="dataset")
