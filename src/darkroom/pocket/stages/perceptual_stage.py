"""A small VGG learns to name what lies in each cell of a scene; its features then say which pictures look alike.

Linear heads, thrown away afterwards, read off the last tap which shape covers a cell of 8 × 8 pixels, in which colour,
and the cell's mean colour. Pictures are blurred, noised and dimmed at random, so that features tell such damage from
content.
"""

import argparse
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from darkroom.models.perceptual import POCKET_ENCODER, WIDTHS, PocketEncoder
from darkroom.pocket.stages.encoders import Report, Wear, fit, save_half, worn
from darkroom.pocket.world.colours import NAMES, Pixels
from darkroom.pocket.world.scenes import Scene, draw_scene
from darkroom.pocket.world.shapes import SHAPES

_CELL = 8
_NO_SHAPE = len(SHAPES)
_LEAST_SHARE = 0.3
_WEAR = Wear(chance=0.3, blur=(0.5, 2.0), noise=(0.01, 0.06), light=(0.85, 1.1))


@dataclass(frozen=True)
class PerceptualRecipe:
    """`steps` batches from a pool of `pool` scenes; the defaults are those of the shipped encoder."""

    steps: int = 600
    batch: int = 16
    pool: int = 2500
    lr: float = 2e-3
    seed: int = 0


@dataclass(frozen=True)
class _Example:
    """A picture [128, 128, 3] and per cell [16, 16] its shape (or none), that shape's colour (or -1)."""

    image: NDArray[np.uint8]
    shapes: NDArray[np.int64]
    colours: NDArray[np.int64]


def train_perceptual(recipe: PerceptualRecipe, report: Report) -> tuple[PocketEncoder, list[float]]:
    """The trained encoder and the loss of every step; the same recipe gives the same weights on one machine."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        encoder, heads = PocketEncoder(), nn.Conv2d(WIDTHS[-1], _NO_SHAPE + 1 + len(NAMES) + 3, 1)
        for layer in encoder.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
    pool = [_example(draw_scene(np.random.default_rng((recipe.seed, 5, n)))) for n in range(recipe.pool)]

    def loss_of(step: int) -> Tensor:
        return _loss(encoder, heads, *_batch(pool, recipe, step))

    trained = [*encoder.parameters(), *heads.parameters()]
    losses = fit("perceptual", trained, loss_of, recipe.steps, recipe.lr, 1e-4, report)
    return encoder.requires_grad_(False).eval(), losses


def _example(scene: Scene) -> _Example:
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


def main() -> None:
    """`python -m darkroom.pocket.stages.perceptual_stage`: train the encoder and put it in its place."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=PerceptualRecipe.steps)
    parser.add_argument("--out", type=Path, default=POCKET_ENCODER)
    options = parser.parse_args()
    encoder, _ = train_perceptual(PerceptualRecipe(steps=options.steps), lambda line: print(line, flush=True))
    save_half(encoder, options.out)


if __name__ == "__main__":
    main()
