"""The vision model on the shelf: loaded in the form that is asked for, counted, and the first to make room."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from darkroom.errors import ModelNotReady
from darkroom.models.captions import Describer, described_bytes
from darkroom.models.placement import occupied_bytes
from darkroom.models.residency import Visiting
from darkroom.models.shelf import Shelf
from darkroom.models.specs import ModelSpec, Precision, Profile
from darkroom.models.towers import outputs_of
from darkroom.models.vision import VisionExtractor, expected_bytes, load_model


@pytest.fixture
def shelf(profile: Profile, vision_folder: Path) -> Shelf:
    return Shelf(replace(profile, models={**profile.models, "vision": ModelSpec(str(vision_folder))}))


def test_it_is_loaded_in_the_form_asked_for_and_kept_while_that_serves(shelf: Shelf) -> None:
    tower = shelf.vision()
    assert shelf.vision() is tower
    assert not tower.reads
    whole = shelf.vision(language=True)
    assert whole is not tower
    assert whole.reads
    assert shelf.vision() is whole
    eight = shelf.vision(eight_bit=True)
    assert eight is not whole
    assert shelf.report()["models"]["vision"]["state"] == "warm"


def test_what_was_seen_outlives_the_model(shelf: Shelf, photo: Image.Image) -> None:
    first = shelf.vision().look(photo, grid=(2, 2))
    shelf.evict("vision")
    assert shelf.report()["models"]["vision"]["state"] == "cold"
    again = shelf.vision()
    with outputs_of([again.model.visual]) as runs:
        assert torch.equal(again.look(photo, grid=(2, 2)).final, first.final)
    assert not runs


def test_its_memory_is_known_before_it_is_loaded(vision_folder: Path) -> None:
    for language in (False, True):
        model = load_model(vision_folder, "float32", language)
        held = sum(parameter.numel() * 4 for parameter in model.parameters())
        assert expected_bytes(vision_folder, "float32", language) == held


def test_it_makes_room_for_an_editor_and_takes_none_that_is_not_there(profile: Profile, vision_folder: Path) -> None:
    models = {**profile.models, "vision": ModelSpec(str(vision_folder))}
    shelf = Shelf(replace(profile, models=models), budget_bytes=expected_bytes(vision_folder, "float32", False) + 1)
    shelf.vision()
    with pytest.raises(ModelNotReady, match="memory budget"):
        shelf.editor("edit")
    assert shelf.report()["models"]["vision"]["state"] == "cold"
    with pytest.raises(ModelNotReady, match="the vision model needs"):
        shelf.vision(language=True)


def test_a_visitor_is_on_the_device_only_while_it_looks() -> None:
    moves: list[str] = []

    class Part:
        def to(self, place: Any) -> None:
            moves.append(str(place))

    part, visiting = Part(), Visiting(torch.device("meta"))
    visiting.use(part)
    visiting.rest(part)
    assert moves == ["meta", "cpu"]


def test_a_visitor_sees_the_same(shelf: Shelf, photo: Image.Image) -> None:
    resident = shelf.vision().look(photo, grid=(2, 2))
    shelf._encodings.limit_bytes = 0
    assert torch.equal(shelf.vision(visiting=True).look(photo, grid=(2, 2)).final, resident.final)


def test_a_visitor_whose_look_fails_goes_back(vision_folder: Path, photo: Image.Image) -> None:
    gone: list[Any] = []

    class Door(Visiting):
        def rest(self, part: Any) -> None:
            gone.append(part)

    eyes = VisionExtractor.load(vision_folder, torch.device("cpu"), language=False, residency=Door(torch.device("cpu")))
    eyes.model.visual.register_forward_pre_hook(lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        eyes.look(photo, grid=(2, 2))
    assert gone == [eyes.model]


@pytest.mark.parametrize("precision", ["float32", "bf16", "fp8_storage"])
def test_a_describer_takes_the_room_made_for_it(vision_folder: Path, photo: Image.Image, precision: Precision) -> None:
    describer = Describer(vision_folder, torch.device("cpu"), precision)
    room = described_bytes(vision_folder, precision)
    assert room == pytest.approx(occupied_bytes(describer._model), rel=0.05)
    assert (room < described_bytes(vision_folder, "bf16")) == (precision == "fp8_storage")
    assert isinstance(describer.describe(photo), str)
