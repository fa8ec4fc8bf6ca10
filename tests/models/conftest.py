from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from darkroom.models.areas import Areas
from darkroom.models.editor import Editor
from darkroom.models.presets import POCKET
from darkroom.models.shelf import Shelf
from darkroom.models.specs import PROFILES, ModelSpec, Profile

AREA = 128 * 128


@pytest.fixture(scope="session")
def profile(family: Path) -> Profile:
    """The pocket profile over the random family, in all three image roles."""
    spec = ModelSpec(str(family), areas=Areas(AREA, AREA), presets=POCKET)
    return replace(PROFILES["pocket"], models={"edit": spec, "video": spec, "image": spec})


@pytest.fixture(scope="session")
def editor(profile: Profile) -> Editor:
    return Shelf(profile).editor("edit")


@pytest.fixture(scope="session")
def photo() -> Image.Image:
    with Image.open(Path(__file__).parent.parent / "assets" / "astronaut.jpg") as image:
        return image.convert("RGB")
