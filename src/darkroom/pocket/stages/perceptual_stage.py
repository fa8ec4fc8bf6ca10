"""A small VGG learns to name what lies in each cell of a scene; its features then say which pictures look alike.

Linear heads, thrown away afterwards, read off the last tap which shape covers a cell of 8 × 8 pixels, in which colour,
and the cell's mean colour. Pictures are blurred, noised and dimmed at random, so that features tell such damage from
content.
"""

from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import NonNegativeInt, PositiveFloat, PositiveInt
from torch import Tensor, nn
from torch.nn import functional

from darkroom.models.perceptual import WIDTHS, PocketEncoder
from darkroom.pocket.evaluate import HELD_OUT_SEED
from darkroom.pocket.stages.checkpoint import load_checkpoint
from darkroom.pocket.stages.course import Course
from darkroom.pocket.stages.encoders import Wear, fit, worn
from darkroom.pocket.world.colours import NAMES, Pixels
from darkroom.pocket.world.scenes import draw_scene
from darkroom.pocket.world.shapes import SHAPES

_CELL = 8
_NO_SHAPE = len(SHAPES)
_LEAST_SHARE = 0.3
# What the heads are called in the checkpoint.
_HEADS = "heads."
_WEAR = Wear(chance=0.3, blur=(0.5, 2.0), noise=(0.01, 0.06), light=(0.85, 1.1))


@dataclass(frozen=True)
class PerceptualRecipe:
    """`steps` batches from a pool of `pool` scenes; the defaults are those of the shipped encoder."""

    steps: PositiveInt = 600
    batch: PositiveInt = 16
    pool: PositiveInt = 2500
    lr: PositiveFloat = 2e-3
    seed: NonNegativeInt = 0


@dataclass(frozen=True)
class _Example:
    """A picture [128, 128, 3] and per cell [16, 16] its shape (or none), that shape's colour (or -1)."""

    image: NDArray[np.uint8]
    shapes: NDArray[np.int64]
    colours: NDArray[np.int64]


def train_perceptual(recipe: PerceptualRecipe, checkpoint: Path, course: Course) -> tuple[PocketEncoder, list[float]]:
    """The trained encoder and the loss of every step; the same recipe gives the same weights on one machine."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        encoder, heads = PocketEncoder(), _heads()
        for layer in encoder.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
    pool = list(course.drawn(partial(_example, recipe.seed), range(recipe.pool)))

    def loss_of(step: int) -> Tensor:
        return _loss(encoder, heads, *(part.to(course.device) for part in _batch(pool, recipe, step)))

    with course.at(encoder, heads):
        trained = {
            **dict(encoder.named_parameters()),
            **{f"{_HEADS}{name}": p for name, p in heads.named_parameters()},
        }
        losses = fit("perceptual", trained, loss_of, recipe.steps, recipe.lr, 1e-4, checkpoint, course)
    return encoder.requires_grad_(False).eval(), losses


@torch.no_grad()
def judge_perceptual(encoder: PocketEncoder, checkpoint: Path, cases: int) -> dict[str, float]:
    """`shapes`: the share of held-out cells that are named right; `colours`: of those with a shape, their colours.

    The heads that read them off come from the stage's checkpoint.
    """
    heads, state = _heads(), load_checkpoint(checkpoint)
    assert state is not None
    heads.load_state_dict({k.removeprefix(_HEADS): v for k, v in state["weights"].items() if k.startswith(_HEADS)})
    drawn = [_example(HELD_OUT_SEED, number) for number in range(cases)]
    images = torch.from_numpy(np.stack([example.image for example in drawn])).permute(0, 3, 1, 2).float()
    found = heads(encoder.features(images / 127.5 - 1)[-1])
    shape, colour, _ = found.split([_NO_SHAPE + 1, len(NAMES), 3], dim=1)
    shapes, colours = (np.stack([getattr(e, name) for e in drawn]) for name in ("shapes", "colours"))
    named, painted = shape.argmax(dim=1).numpy() == shapes, colour.argmax(dim=1).numpy() == colours
    return {"shapes": float(named.mean()), "colours": float(painted[colours >= 0].mean())}


def _heads() -> nn.Conv2d:
    return nn.Conv2d(WIDTHS[-1], _NO_SHAPE + 1 + len(NAMES) + 3, 1)


def _example(seed: int, number: int) -> _Example:
    scene = draw_scene(np.random.default_rng((seed, 5, number)))
    shares = np.stack([_cell_mean(scene.mask(item)) for item in scene.items])
    winner, covered = shares.argmax(axis=0), shares.max(axis=0) >= _LEAST_SHARE
    shapes = np.array([SHAPES.index(item.shape) for item in scene.items])[winner]
    colours = np.array([NAMES.index(item.colour) for item in scene.items])[winner]
    image = np.round(scene.render() * 255).astype(np.uint8)
    return _Example(image, np.where(covered, shapes, _NO_SHAPE), np.where(covered, colours, -1))


def _cell_mean(plane: Pixels) -> Pixels:
    rows, columns = plane.shape[0] // _CELL, plane.shape[1] // _CELL
    means: Pixels = plane.reshape(rows, _CELL, columns, _CELL).mean(axis=(1, 3))
    return means


def _batch(pool: list[_Example], recipe: PerceptualRecipe, step: int) -> tuple[Tensor, Tensor, Tensor]:
    """Pixels [B, 3, 128, 128] in -1…1, shapes and colours [B, 16, 16]: what step `step` sees, whatever came before."""
    rng = np.random.default_rng((recipe.seed, 6, step))
    chosen = [pool[index] for index in rng.integers(len(pool), size=recipe.batch)]
    mirrored = rng.random(recipe.batch) < 0.5
    images = np.stack([worn(rng, example.image, _WEAR) for example in chosen])
    pixels = torch.from_numpy(images).permute(0, 3, 1, 2).float() * 2 - 1
    shapes = torch.from_numpy(np.stack([example.shapes for example in chosen]))
    colours = torch.from_numpy(np.stack([example.colours for example in chosen]))
    flip = torch.from_numpy(mirrored)
    pixels[flip], shapes[flip], colours[flip] = pixels[flip].flip(-1), shapes[flip].flip(-1), colours[flip].flip(-1)
    return pixels, shapes, colours


def _loss(encoder: PocketEncoder, heads: nn.Module, pixels: Tensor, shapes: Tensor, colours: Tensor) -> Tensor:
    shape, colour, mean = heads(encoder.features(pixels)[-1]).split([_NO_SHAPE + 1, len(NAMES), 3], dim=1)
    return (
        functional.cross_entropy(shape, shapes)
        + functional.cross_entropy(colour, colours, ignore_index=-1)
        + functional.mse_loss(mean, functional.avg_pool2d(pixels, _CELL))
    )
