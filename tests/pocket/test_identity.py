"""The ruler of identity: it learns, answers in the world's own words, and knows people again in other views."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from darkroom.models.identity import ATTRIBUTES, POCKET_IDENTITY, IdentityEncoder, load_identity
from darkroom.pocket.stages.course import Course
from darkroom.pocket.stages.identity_stage import IdentityRecipe, answers, train_identity
from darkroom.pocket.world.colours import NAMES
from darkroom.pocket.world.people import CUTS, EYES, HAIRS, SKINS, draw_person
from darkroom.pocket.world.portraits import draw_portrait

# Training draws from small seeds.
HELD_OUT = 900_010


def test_the_answers_are_the_worlds_own() -> None:
    assert ATTRIBUTES["skin"] == tuple(SKINS)
    assert set(ATTRIBUTES["hair"]) == set(HAIRS)
    assert ATTRIBUTES["cut"] == CUTS
    assert ATTRIBUTES["eyes"] == tuple(EYES)
    assert set(ATTRIBUTES["shirt"]) == set(NAMES)
    assert set(ATTRIBUTES["hat"]) == {"none", *NAMES}


def test_it_learns(tmp_path: Path) -> None:
    _, losses = train_identity(IdentityRecipe(steps=12, batch=8, pool=24), tmp_path / "identity.pt", Course())
    assert sum(losses[-4:]) < 0.95 * sum(losses[:4])


@pytest.fixture(scope="module")
def encoder() -> IdentityEncoder:
    assert POCKET_IDENTITY.is_file()
    return load_identity()


def portraits(person_seed: int, count: int) -> Tensor:
    person = draw_person(np.random.default_rng((HELD_OUT, person_seed)))
    views = [
        draw_portrait(np.random.default_rng((HELD_OUT, person_seed, view)), person=person).render()
        for view in range(count)
    ]
    return torch.from_numpy(np.stack(views)).permute(0, 3, 1, 2) * 2 - 1


def test_it_reads_people_whom_it_has_never_met(encoder: IdentityEncoder) -> None:
    right = []
    for number in range(40):
        person = draw_person(np.random.default_rng((HELD_OUT, number)))
        (found,) = encoder.read(portraits(number, 1))
        right += [found[name] == truth for name, truth in answers(person).items() if truth is not None]
    assert np.mean(right) > 0.95


def test_two_views_of_one_person_are_nearer_than_two_people(encoder: IdentityEncoder) -> None:
    embedded = torch.stack([encoder.embed(portraits(number, 2)) for number in range(20)])
    assert torch.allclose(embedded.norm(dim=-1), torch.ones(20, 2))
    likeness = embedded[:, 0] @ embedded[:, 1].T
    same, other = likeness.diagonal(), likeness[~torch.eye(20, dtype=torch.bool)]
    assert same.mean() > 0.9
    assert other.mean() < 0.6
    assert (likeness.argmax(dim=1) == torch.arange(20)).float().mean() > 0.9


def test_other_sizes_are_read_too(encoder: IdentityEncoder) -> None:
    picture = portraits(3, 1)
    larger = torch.nn.functional.interpolate(picture, (256, 256), mode="bicubic").clamp(-1, 1)
    assert float((encoder.embed(picture) @ encoder.embed(larger).T)[0, 0]) > 0.95
