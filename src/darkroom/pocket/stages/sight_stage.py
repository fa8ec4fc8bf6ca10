"""Stage 2: Qwen2.5-VL's vision tower learns to describe scenes, cell by cell.

Each of its 4 × 4 tokens names the shape that covers most of its cell, that shape's colour, the cell's mean colour, and
the colour of a large dot in it, through linear heads that are thrown away. Afterwards the tower is frozen, and the
text encoder learns to use it. Small dots it never sees: they are what it misses and a finer sight does not.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import Qwen2_5_VLForConditionalGeneration, Qwen2VLProcessor

from darkroom.pocket.stages.muon import Muon
from darkroom.pocket.stages.schedule import warm_then_linear
from darkroom.pocket.stages.truth import NO_DOT, NO_SHAPE, mean_colours, scene_cells
from darkroom.pocket.world.colours import NAMES, Pixels
from darkroom.pocket.world.marks import LARGE_DOT_RADIUS, draw_dot
from darkroom.pocket.world.scenes import Item, Scene, draw_scene

_SIDE = 4
# Logits of shape, colour and dot, and the mean colour's three channels.
_ANSWERS = [NO_SHAPE + 1, len(NAMES), NO_DOT + 1, 3]

Report = Callable[[str], None]


@dataclass(frozen=True)
class SightRecipe:
    """`steps` batches of fresh scenes."""

    steps: int = 500
    batch: int = 48
    matrix_lr: float = 0.01
    vector_lr: float = 2e-3
    seed: int = 0


def train_sight(
    text_encoder: Qwen2_5_VLForConditionalGeneration, processor: Qwen2VLProcessor, recipe: SightRecipe, report: Report
) -> list[float]:
    """Train the vision tower in place; returns the loss of every step. Short enough to need no checkpoint."""
    visual = text_encoder.model.visual
    generator = torch.Generator().manual_seed(recipe.seed)
    heads = nn.Linear(visual.config.out_hidden_size, sum(_ANSWERS))
    nn.init.normal_(heads.weight, std=0.02, generator=generator)
    optimizers = _optimizers(visual, heads, recipe)
    losses = []
    for step in range(recipe.steps):
        drawn = [_drawn(np.random.default_rng((recipe.seed, 3, step, n))) for n in range(recipe.batch)]
        images = [_with_dot(scene, dot).render() for scene, dot in drawn]
        loss = _loss(heads(see(text_encoder, processor, images)), drawn, images)
        loss.backward()
        factor = warm_then_linear(step, recipe.steps, warmup=20)
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = group["peak"] * factor
            optimizer.step()
            optimizer.zero_grad()
        losses.append(float(loss.detach()))
        if (step + 1) % 100 == 0:
            report(f"sight {step + 1}/{recipe.steps}: loss {np.mean(losses[-100:]):.3f}")
    return losses


def see(text_encoder: Qwen2_5_VLForConditionalGeneration, processor: Qwen2VLProcessor, images: list[Pixels]) -> Tensor:
    """[N, cells, width]: what the vision tower hands to the text model; 16 cells for 128 × 128, one size."""
    pictures = [torch.from_numpy(np.round(image * 255).astype(np.uint8)).permute(2, 0, 1) for image in images]
    inputs = processor.image_processor(pictures, return_tensors="pt")
    seen: Tensor = text_encoder.model.visual(inputs["pixel_values"], grid_thw=inputs["image_grid_thw"]).pooler_output
    return seen.view(len(images), -1, seen.shape[-1])


def _drawn(rng: np.random.Generator) -> tuple[Scene, Item | None]:
    """A scene, and a large dot for one in two."""
    scene = draw_scene(rng)
    return scene, draw_dot(rng, scene, LARGE_DOT_RADIUS) if rng.random() < 0.5 else None


def _with_dot(scene: Scene, dot: Item | None) -> Scene:
    return scene if dot is None else replace(scene, items=(*scene.items, dot))


def _loss(described: Tensor, drawn: list[tuple[Scene, Item | None]], images: list[Pixels]) -> Tensor:
    shape, colour, dot, mean = described.split(_ANSWERS, dim=-1)
    truths = [_truth(scene, mark, image) for (scene, mark), image in zip(drawn, images, strict=True)]
    shapes, colours, dots, means = (torch.stack(parts) for parts in zip(*truths, strict=True))
    return (
        functional.cross_entropy(shape.flatten(0, 1), shapes.flatten())
        + functional.cross_entropy(colour.flatten(0, 1), colours.flatten())
        # One cell in thirty has a dot.
        + 3 * functional.cross_entropy(dot.flatten(0, 1), dots.flatten())
        + 10 * functional.mse_loss(mean, means)
    )


def _truth(scene: Scene, dot: Item | None, image: Pixels) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Per cell: the shape (or none), its colour (or UNASKED), the colour of a dot (or none), the mean colour."""
    cells = scene_cells(scene.items, () if dot is None else (dot,), scene.width, scene.height, _SIDE)
    shapes, colours, dots = map(torch.from_numpy, cells)
    return shapes, colours, dots, torch.from_numpy(mean_colours(image, _SIDE))


def _optimizers(visual: nn.Module, heads: nn.Module, recipe: SightRecipe) -> list[torch.optim.Optimizer]:
    matrices = [p for name, p in visual.named_parameters() if p.ndim == 2]
    vectors = [p for name, p in visual.named_parameters() if p.ndim != 2] + list(heads.parameters())
    return [
        Muon([{"params": matrices, "peak": recipe.matrix_lr}]),
        torch.optim.AdamW([{"params": vectors, "peak": recipe.vector_lr}], weight_decay=0.0),
    ]
