"""A small encoder learns to read a person's attributes in any view: the pocket world's ruler of identity.

Pictures are mirrored, blurred, noised and dimmed at random, so that it reads what a model drew softly, too.
"""

import argparse
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from darkroom.models.identity import ATTRIBUTES, POCKET_IDENTITY, IdentityEncoder
from darkroom.pocket.stages.encoders import Report, Wear, fit, save_half, worn
from darkroom.pocket.world.people import Person
from darkroom.pocket.world.portraits import draw_portrait

_UNSEEN = -1
_WEAR = Wear(chance=0.4, blur=(0.4, 1.6), noise=(0.01, 0.05), light=(0.9, 1.1))


@dataclass(frozen=True)
class IdentityRecipe:
    """`steps` batches from a pool of `pool` portraits; the defaults are those of the shipped encoder."""

    steps: int = 1500
    batch: int = 48
    pool: int = 8000
    lr: float = 3e-3
    seed: int = 0


def train_identity(recipe: IdentityRecipe, report: Report) -> tuple[IdentityEncoder, list[float]]:
    """The trained encoder and the loss of every step; the same recipe gives the same weights on one machine."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        encoder = IdentityEncoder()
    portraits = (draw_portrait(np.random.default_rng((recipe.seed, 8, n))) for n in range(recipe.pool))
    pool = [(np.round(p.render() * 255).astype(np.uint8), answers(p.person)) for p in portraits]

    def loss_of(step: int) -> Tensor:
        pixels, truth = _batch(pool, recipe, step)
        return _loss(encoder(pixels), truth)

    losses = fit("identity", encoder.parameters(), loss_of, recipe.steps, recipe.lr, 1e-3, report)
    return encoder.requires_grad_(False).eval(), losses


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


def _batch(
    pool: list[tuple[NDArray[np.uint8], dict[str, str | None]]], recipe: IdentityRecipe, step: int
) -> tuple[Tensor, dict[str, Tensor]]:
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


def main() -> None:
    """`python -m darkroom.pocket.stages.identity_stage`: train the encoder and put it in its place."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=IdentityRecipe.steps)
    parser.add_argument("--out", type=Path, default=POCKET_IDENTITY)
    options = parser.parse_args()
    encoder, _ = train_identity(IdentityRecipe(steps=options.steps), lambda line: print(line, flush=True))
    save_half(encoder, options.out)


if __name__ == "__main__":
    main()
