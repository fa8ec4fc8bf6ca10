"""Photos of people as the vision model sees them, and as pictures to be made."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path
from typing import Any, cast

import numpy as np
from PIL import Image

from darkroom.jobs import Limits
from darkroom.jobs.injection_sweep import PhotoFit
from darkroom.workers.injection.people import from_dataset
from darkroom.workers.recipe import Desk

NOISE = np.random.default_rng(0).integers(0, 256, (64, 96, 3), dtype=np.uint8)


def desk_with(folder: Path) -> Desk:
    picture = io.BytesIO()
    Image.fromarray(NOISE).save(picture, "PNG")
    with zipfile.ZipFile(folder / "people.zip", "w") as archive:
        archive.writestr("seed_1/photo_view_0.png", picture.getvalue())
    return Desk(cast(Any, None), Limits(), clips={"dataset": folder / "people.zip"})


def test_pictures_to_be_made_are_cut_from_the_photos_as_they_came(tmp_path: Path) -> None:
    (person,) = from_dataset(PhotoFit(type="fit", photo_pixels=32 * 32), desk_with(tmp_path), (64, 64))
    assert person.photos[0].size == (32, 32)
    assert np.array_equal(np.asarray(person.drawn[0]), NOISE[:, 16:80])
    (same,) = from_dataset(PhotoFit(type="fit", photo_fit="budget", photo_pixels=96 * 64), desk_with(tmp_path))
    assert np.array_equal(np.asarray(same.photos[0]), NOISE)
    assert not same.drawn
