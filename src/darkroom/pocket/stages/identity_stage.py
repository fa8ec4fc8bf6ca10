"""A small encoder learns to read a person's attributes in any view: the pocket world's ruler of identity.

Pictures are mirrored, blurred, noised and dimmed at random, so that it reads what a model drew softly, too.
"""

import argparse
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional

from darkroom.models.identity import ATTRIBUTES, POCKET_IDENTITY, IdentityEncoder
from darkroom.pocket.stages.schedule import warm_then_linear
from darkroom.pocket.world.people import Person
from darkroom.pocket.world.portraits import draw_portrait

_UNSEEN = -1

Report = Callable[[str], None]


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
    optimizer = torch.optim.AdamW(encoder.parameters(), recipe.lr, weight_decay=1e-3)
    losses = []
    for step in range(recipe.steps):
        for group in optimizer.param_groups:
            group["lr"] = recipe.lr * warm_then_linear(step, recipe.steps, warmup=40)
        pixels, truth = _batch(pool, recipe, step)
        loss = _loss(encoder(pixels), truth)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
        if (step + 1) % 50 == 0:
            report(f"identity {step + 1}/{recipe.steps}: loss {np.mean(losses[-50:]):.3f}")
    return encoder.requires_grad_(False).eval(), losses


def save_identity(encoder: IdentityEncoder, path: Path = POCKET_IDENTITY) -> None:
    """In float16, which its answers do not notice."""
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({name: value.half().contiguous() for name, value in encoder.state_dict().items()}, path)
    path.chmod(0o644)


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
    pixels = torch.from_numpy(np.stack([_worn(rng, picture) for picture, _ in chosen])).permute(0, 3, 1, 2) * 2 - 1
    mirrored = torch.from_numpy(rng.random(recipe.batch) < 0.5)
    pixels[mirrored] = pixels[mirrored].flip(-1)
    truth = {
        name: torch.tensor([_number(possible, told[name]) for _, told in chosen])
        for name, possible in ATTRIBUTES.items()
    }
    return pixels, truth


def _number(possible: tuple[str, ...], answer: str | None) -> int:
    return _UNSEEN if answer is None else possible.index(answer)


def _worn(rng: np.random.Generator, picture: NDArray[np.uint8]) -> NDArray[np.float32]:
    worn = np.asarray(picture, dtype=np.float32) / np.float32(255)
    if rng.random() < 0.4:
        worn = np.asarray(cv2.GaussianBlur(worn, (0, 0), rng.uniform(0.4, 1.6)), dtype=np.float32)
    if rng.random() < 0.4:
        worn = worn + rng.normal(0, rng.uniform(0.01, 0.05), worn.shape).astype(np.float32)
    dimmed: NDArray[np.float32] = np.clip(worn * np.float32(rng.uniform(0.9, 1.1)), 0, 1).astype(np.float32)
    return dimmed


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
    save_identity(encoder, options.out)


if __name__ == "__main__":
    main()
