"""Stage 2: Qwen2.5-VL's vision tower learns to describe scenes, cell by cell.

Each of its 4 × 4 tokens names the shape that covers most of its cell, that shape's colour, the cell's mean colour, and
the colour of a large dot in it, through linear heads that are thrown away. Afterwards the tower is frozen, and the
text encoder learns to use it. Small dots it never sees: they are what it misses and a finer sight does not.
"""

from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import NonNegativeInt, PositiveFloat, PositiveInt
from torch import Tensor, nn
from torch.nn import functional
from transformers import Qwen2_5_VLForConditionalGeneration, Qwen2VLProcessor

from darkroom.pocket.evaluate import HELD_OUT_SEED
from darkroom.pocket.stages.checkpoint import keep, load_checkpoint, resume
from darkroom.pocket.stages.course import Course
from darkroom.pocket.stages.muon import Muon
from darkroom.pocket.stages.schedule import warm_then_linear
from darkroom.pocket.stages.truth import NO_DOT, NO_SHAPE, UNASKED, mean_colours, scene_cells
from darkroom.pocket.world.colours import NAMES, Pixels
from darkroom.pocket.world.marks import LARGE_DOT_RADIUS, draw_dot
from darkroom.pocket.world.scenes import Item, Scene, draw_scene

_SIDE = 4
# Logits of shape, colour and dot, and the mean colour's three channels.
_ANSWERS = [NO_SHAPE + 1, len(NAMES), NO_DOT + 1, 3]

# What the heads are called in the checkpoint.
_HEADS = "heads."


@dataclass(frozen=True)
class SightRecipe:
    """`steps` batches of fresh scenes."""

    steps: PositiveInt = 500
    batch: PositiveInt = 48
    matrix_lr: PositiveFloat = 0.01
    vector_lr: PositiveFloat = 2e-3
    seed: NonNegativeInt = 0


def train_sight(
    text_encoder: Qwen2_5_VLForConditionalGeneration,
    processor: Qwen2VLProcessor,
    recipe: SightRecipe,
    checkpoint: Path,
    course: Course,
) -> list[float]:
    """Train the vision tower in place, from `checkpoint` on where it exists; returns the loss of this call's steps."""
    visual = text_encoder.model.visual
    generator = torch.Generator().manual_seed(recipe.seed)
    heads = _heads(visual)
    nn.init.normal_(heads.weight, std=0.02, generator=generator)
    nn.init.zeros_(heads.bias)
    losses: list[float] = []
    with course.at(visual, heads):
        trained = {
            **dict(visual.named_parameters()),
            **{f"{_HEADS}{name}": p for name, p in heads.named_parameters()},
        }
        optimizers = _optimizers(visual, heads, recipe)

        def kept(done: int) -> None:
            keep(checkpoint, done, trained, optimizers)
            course.report(f"sight {done}/{recipe.steps}: loss {np.mean(losses[-course.every :]):.3f}")

        first = resume(checkpoint, trained, optimizers)
        lessons = course.drawn(partial(_lesson, recipe), range(first, recipe.steps))
        for step, lesson in zip(course.steps("sight", first, recipe.steps, kept), lessons, strict=False):
            answers = heads(see(text_encoder, processor, [shown.image for shown in lesson]))
            loss = _loss(answers, _truths(lesson, course.device))
            loss.backward()
            factor = warm_then_linear(step, recipe.steps, warmup=20)
            for optimizer in optimizers:
                for group in optimizer.param_groups:
                    group["lr"] = group["peak"] * factor
                optimizer.step()
                optimizer.zero_grad()
            losses.append(float(loss.detach()))
    return losses


@torch.no_grad()
def judge_sight(
    text_encoder: Qwen2_5_VLForConditionalGeneration, processor: Qwen2VLProcessor, checkpoint: Path, cases: int
) -> dict[str, float]:
    """Shares of held-out cells that are named right: `shapes` of all, `colours` of those with a shape, `dots` of those
    with a large dot.

    The heads that read them off come from the stage's checkpoint.
    """
    heads, state = _heads(text_encoder.model.visual), load_checkpoint(checkpoint)
    assert state is not None
    heads.load_state_dict({k.removeprefix(_HEADS): v for k, v in state["weights"].items() if k.startswith(_HEADS)})
    lesson = [_shown(np.random.default_rng((HELD_OUT_SEED, 3, number))) for number in range(cases)]
    seen = see(text_encoder, processor, [shown.image for shown in lesson])
    shape, colour, dot, _ = (part.argmax(dim=-1) for part in heads(seen).split(_ANSWERS, dim=-1))
    shapes, colours, dots, _ = _truths(lesson, torch.device("cpu"))
    right = {
        "shapes": shape == shapes,
        "colours": (colour == colours)[colours != UNASKED],
        "dots": (dot == dots)[dots != NO_DOT],
    }
    return {name: float(cells.float().mean()) for name, cells in right.items()}


def see(text_encoder: Qwen2_5_VLForConditionalGeneration, processor: Qwen2VLProcessor, images: list[Pixels]) -> Tensor:
    """[N, cells, width]: what the vision tower hands to the text model; 16 cells for 128 × 128, one size."""
    return see_bytes(text_encoder, processor, [np.round(image * 255).astype(np.uint8) for image in images])


def see_bytes(
    text_encoder: Qwen2_5_VLForConditionalGeneration, processor: Qwen2VLProcessor, images: list[NDArray[np.uint8]]
) -> Tensor:
    """`see` of pictures [H, W, 3] in 0…255, on the tower's device."""
    visual = text_encoder.model.visual
    pictures = list(torch.from_numpy(np.stack(images)).to(visual.device).permute(0, 3, 1, 2))
    inputs = processor.image_processor(pictures, return_tensors="pt").to(visual.device)
    seen: Tensor = visual(inputs["pixel_values"], grid_thw=inputs["image_grid_thw"]).pooler_output
    return seen.view(len(images), -1, seen.shape[-1])


@dataclass(frozen=True)
class _Shown:
    """A scene, the large dot in it if there is one, and the picture of both."""

    scene: Scene
    dot: Item | None
    image: Pixels


def _heads(visual: Any) -> nn.Linear:
    return nn.Linear(visual.config.out_hidden_size, sum(_ANSWERS))


def _lesson(recipe: SightRecipe, step: int) -> list[_Shown]:
    """What step `step` shows, whatever came before."""
    return [_shown(np.random.default_rng((recipe.seed, 3, step, n))) for n in range(recipe.batch)]


def _shown(rng: np.random.Generator) -> _Shown:
    scene, dot = _drawn(rng)
    return _Shown(scene, dot, _with_dot(scene, dot).render())


def _drawn(rng: np.random.Generator) -> tuple[Scene, Item | None]:
    """A scene, and a large dot for one in two."""
    scene = draw_scene(rng)
    return scene, draw_dot(rng, scene, LARGE_DOT_RADIUS) if rng.random() < 0.5 else None


def _with_dot(scene: Scene, dot: Item | None) -> Scene:
    return scene if dot is None else replace(scene, items=(*scene.items, dot))


def _loss(described: Tensor, truths: list[Tensor]) -> Tensor:
    shape, colour, dot, mean = described.split(_ANSWERS, dim=-1)
    shapes, colours, dots, means = truths
    return (
        functional.cross_entropy(shape.flatten(0, 1), shapes.flatten())
        + functional.cross_entropy(colour.flatten(0, 1), colours.flatten())
        # One cell in thirty has a dot.
        + 3 * functional.cross_entropy(dot.flatten(0, 1), dots.flatten())
        + 10 * functional.mse_loss(mean, means)
    )


def _truths(lesson: list[_Shown], device: torch.device) -> list[Tensor]:
    """Shapes, colours and dots [N, cells] and mean colours [N, cells, 3]."""
    truths = [_truth(shown.scene, shown.dot, shown.image) for shown in lesson]
    return [torch.stack(parts).to(device) for parts in zip(*truths, strict=True)]


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
