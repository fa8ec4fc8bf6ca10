"""A small encoder learns to read a person's attributes in any view: the pocket world's ruler of identity.

Pictures are mirrored, blurred, noised and dimmed at random, so that it reads what a model drew softly, too.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import NonNegativeInt, PositiveFloat, PositiveInt
from torch import Tensor
from torch.nn import functional

from darkroom.models.identity import ATTRIBUTES, IdentityEncoder
from darkroom.pocket.evaluate import HELD_OUT_SEED
from darkroom.pocket.stages.course import Course
from darkroom.pocket.stages.encoders import Wear, fit, worn
from darkroom.pocket.world.people import Person
from darkroom.pocket.world.portraits import draw_portrait

_UNSEEN = -1
# A picture, and what the encoder should say of it.
_Shown = tuple[NDArray[np.uint8], dict[str, str | None]]
_WEAR = Wear(chance=0.4, blur=(0.4, 1.6), noise=(0.01, 0.05), light=(0.9, 1.1))


@dataclass(frozen=True)
class IdentityRecipe:
    """`steps` batches from a pool of `pool` portraits; the defaults are those of the shipped encoder."""

    steps: PositiveInt = 1500
    batch: PositiveInt = 48
    pool: PositiveInt = 8000
    lr: PositiveFloat = 3e-3
    seed: NonNegativeInt = 0


def train_identity(recipe: IdentityRecipe, checkpoint: Path, course: Course) -> tuple[IdentityEncoder, list[float]]:
    """The trained encoder and the loss of every step; the same recipe gives the same weights on one machine."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        encoder = IdentityEncoder()
    pool = list(course.drawn(partial(_portrait, recipe.seed), range(recipe.pool)))

    def loss_of(step: int) -> Tensor:
        pixels, truth = _batch(pool, recipe, step)
        return _loss(
            encoder(pixels.to(course.device)), {name: answer.to(course.device) for name, answer in truth.items()}
        )

    with course.at(encoder):
        trained = dict(encoder.named_parameters())
        losses = fit("identity", trained, loss_of, recipe.steps, recipe.lr, 1e-3, checkpoint, course)
    return encoder.requires_grad_(False).eval(), losses


def judge_identity(encoder: IdentityEncoder, cases: int) -> dict[str, float]:
    """`read`: the share of what held-out portraits show of their people that the encoder reads right."""
    portraits = [draw_portrait(np.random.default_rng((HELD_OUT_SEED, 8, number))) for number in range(cases)]
    pixels = torch.from_numpy(np.stack([p.render() for p in portraits])).permute(0, 3, 1, 2) * 2 - 1
    right = [
        found[name] == truth
        for found, portrait in zip(encoder.read(pixels), portraits, strict=True)
        for name, truth in answers(portrait.person).items()
        if truth is not None
    ]
    return {"read": float(np.mean(right))}


def _portrait(seed: int, number: int) -> _Shown:
    portrait = draw_portrait(np.random.default_rng((seed, 8, number)))
    return np.round(portrait.render() * 255).astype(np.uint8), answers(portrait.person)


def answers(person: Person) -> dict[str, str | None]:
    """What the encoder should say of `person`; None where the picture does not show it."""
    return {
        "skin": person.skin,
        "hair": None if person.cut == "bald" else person.hair,
        "cut": person.cut,
        "eyes": person.eyes,
        "shirt": person.shirt,
        "glasses": "yes" if person.glasses else "no",
        "hat": person.hat or "none",
    }


def _batch(pool: list[_Shown], recipe: IdentityRecipe, step: int) -> tuple[Tensor, dict[str, Tensor]]:
    rng = np.random.default_rng((recipe.seed, 9, step))
    chosen = [pool[index] for index in rng.integers(len(pool), size=recipe.batch)]
    pixels = (
        torch.from_numpy(np.stack([worn(rng, picture, _WEAR) for picture, _ in chosen])).permute(0, 3, 1, 2) * 2 - 1
    )
    mirrored = torch.from_numpy(rng.random(recipe.batch) < 0.5)
    pixels[mirrored] = pixels[mirrored].flip(-1)
    truth = {
        name: torch.tensor([_number(possible, told[name]) for _, told in chosen])
        for name, possible in ATTRIBUTES.items()
    }
    return pixels, truth


def _number(possible: tuple[str, ...], answer: str | None) -> int:
    return _UNSEEN if answer is None else possible.index(answer)


def _loss(logits: Mapping[str, Tensor], truth: Mapping[str, Tensor]) -> Tensor:
    parts = [functional.cross_entropy(found, truth[name], ignore_index=_UNSEEN) for name, found in logits.items()]
    return torch.stack(parts).mean()
