"""The pocket Qwen3-VL learns to describe its world: cell by cell at every level of its tower, and in words.

The cells' answers come through linear heads that are thrown away: without them a small tower takes many times longer
to see. The words come from the language model, which reads the tower's last tokens and the three DeepStack levels.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt
from torch import Tensor, nn
from torch.nn import functional
from transformers import Qwen3VLForConditionalGeneration, Qwen3VLProcessor

from darkroom.pocket.evaluate import HELD_OUT_SEED
from darkroom.pocket.stages.checkpoint import keep, load_checkpoint, resume
from darkroom.pocket.stages.course import Course
from darkroom.pocket.stages.fast_numbers import autocast
from darkroom.pocket.stages.muon import Muon
from darkroom.pocket.stages.schedule import trapezoid
from darkroom.pocket.stages.truth import NO_DOT, NO_SHAPE, UNASKED, mean_colours, scene_cells
from darkroom.pocket.world.colours import NAMES
from darkroom.pocket.world.describe import QUESTION, Described, draw_described

_SIDE = 4
_ANSWERS = [NO_SHAPE + 1, len(NAMES), NO_DOT + 1, 3]
# What the heads are called in the checkpoint.
_HEADS = "heads."


@dataclass(frozen=True)
class Qwen3VLRecipe:
    """`steps` batches of fresh pictures of 256 × 256."""

    steps: PositiveInt = 1600
    batch: PositiveInt = 24
    matrix_lr: PositiveFloat = 0.01
    vector_lr: PositiveFloat = 2e-3
    warmup: NonNegativeInt = 30
    cooldown: Annotated[float, Field(ge=0, le=1)] = 0.4
    seed: NonNegativeInt = 0


def train_qwen3vl(
    model: Qwen3VLForConditionalGeneration,
    processor: Qwen3VLProcessor,
    recipe: Qwen3VLRecipe,
    checkpoint: Path,
    course: Course,
    until_step: int | None = None,
) -> list[float]:
    """Train in place, from `checkpoint` where it exists; returns this call's losses."""
    heads = _heads(model)
    generator = torch.Generator().manual_seed(recipe.seed)
    for head in heads:
        nn.init.normal_(head.weight, std=0.02, generator=generator)  # type: ignore[arg-type]
        nn.init.zeros_(head.bias)  # type: ignore[arg-type]
    losses: list[list[float]] = []
    with course.at(model, heads):
        trained = {**dict(model.named_parameters()), **{f"{_HEADS}{name}": p for name, p in heads.named_parameters()}}
        optimizers = _optimizers(trained, recipe)

        def kept(done: int) -> None:
            keep(checkpoint, done, trained, optimizers)
            cells, words = np.mean(losses[-course.every :], axis=0)
            course.report(f"qwen3vl {done}/{recipe.steps}: cells {cells:.3f}, words {words:.3f}")

        first = resume(checkpoint, trained, optimizers)
        lessons = course.drawn(partial(_lesson, recipe), range(first, recipe.steps))
        steps = course.steps("qwen3vl", first, recipe.steps, kept, until_step)
        for step, described in zip(steps, lessons, strict=False):
            seeing, telling = _losses(model, processor, heads, described)
            (seeing + telling).backward()
            factor = trapezoid(step, recipe.steps, recipe.warmup, recipe.cooldown)
            for optimizer in optimizers:
                for group in optimizer.param_groups:
                    group["lr"] = group["peak"] * factor
                optimizer.step()
                optimizer.zero_grad()
            losses.append([float(seeing.detach()), float(telling.detach())])
    return [sum(both) for both in losses]


@torch.no_grad()
def judge_qwen3vl(
    model: Qwen3VLForConditionalGeneration, processor: Qwen3VLProcessor, checkpoint: Path, cases: int
) -> dict[str, float]:
    """Held-out pictures: shares of cells whose shape, shape's colour and small dot the last level names right, and the
    cross-entropy per token of their descriptions (`words`).

    The heads that read the cells off come from the stage's checkpoint.
    """
    heads, state = _heads(model), load_checkpoint(checkpoint)
    assert state is not None
    heads.load_state_dict({k.removeprefix(_HEADS): v for k, v in state["weights"].items() if k.startswith(_HEADS)})
    described = [draw_described(np.random.default_rng((HELD_OUT_SEED, 6, number))) for number in range(cases)]
    seen, grid = _seen(model, processor, described)
    ids, labels = _told(processor, described)
    answers = heads[-1](seen.pooler_output.float()).view(cases, -1, sum(_ANSWERS))
    shape, colour, dot, _ = (part.argmax(dim=-1) for part in answers.split(_ANSWERS, dim=-1))
    shapes, colours, dots, _ = _truths(described)
    right = {
        "shapes": (shape == shapes)[shapes != UNASKED],
        "colours": (colour == colours)[colours != UNASKED],
        "dots": (dot == dots)[(dots != UNASKED) & (dots != NO_DOT)],
    }
    shares = {name: float(cells.float().mean()) for name, cells in right.items()}
    return {**shares, "words": float(_telling(model, seen, ids, labels, grid))}


def _lesson(recipe: Qwen3VLRecipe, step: int) -> list[Described]:
    """What step `step` shows, whatever came before."""
    return [draw_described(np.random.default_rng((recipe.seed, 6, step, n))) for n in range(recipe.batch)]


def _heads(model: Qwen3VLForConditionalGeneration) -> nn.ModuleList:
    """One for each DeepStack level, and one for the tower's end."""
    vision = model.model.visual.config
    levels = 1 + len(vision.deepstack_visual_indexes)
    return nn.ModuleList([nn.Linear(vision.out_hidden_size, sum(_ANSWERS)) for _ in range(levels)])


def _losses(
    model: Qwen3VLForConditionalGeneration,
    processor: Qwen3VLProcessor,
    heads: nn.ModuleList,
    described: Sequence[Described],
) -> tuple[Tensor, Tensor]:
    device = model.device
    with autocast(device):
        seen, grid = _seen(model, processor, described)
        ids, labels = _told(processor, described)
        telling = _telling(model, seen, ids, labels, grid)
    truths = [truth.to(device) for truth in _truths(described)]
    levels = [*seen.deepstack_features, seen.pooler_output]
    seeing = sum(
        (
            _seeing(head(level.float()).view(len(described), -1, sum(_ANSWERS)), truths)
            for head, level in zip(heads, levels, strict=True)
        ),
        torch.zeros(()),
    )
    return seeing / len(levels), telling


def _seen(
    model: Qwen3VLForConditionalGeneration, processor: Qwen3VLProcessor, described: Sequence[Described]
) -> tuple[Any, Tensor]:
    """What the tower says, and the pictures' patches as (frames, rows, columns), the latter on the CPU."""
    pictures = [torch.from_numpy(np.round(d.picture * 255).astype(np.uint8)).permute(2, 0, 1) for d in described]
    inputs = processor.image_processor(pictures, return_tensors="pt")
    grid = inputs["image_grid_thw"]
    return model.model.visual(inputs["pixel_values"].to(model.device), grid_thw=grid.to(model.device)), grid


def _telling(model: Qwen3VLForConditionalGeneration, seen: Any, ids: Tensor, labels: Tensor, grid: Tensor) -> Tensor:
    """The cross-entropy of the answers' tokens; ids, labels and grid on the CPU, where places are found."""
    places, _ = model.model.get_rope_index(
        ids, mm_token_type_ids=(ids == model.config.image_token_id).int(), image_grid_thw=grid
    )
    ids, labels, places = ids.to(model.device), labels.to(model.device), places.to(model.device)
    visual = ids == model.config.image_token_id
    embedded = model.model.language_model.embed_tokens(ids)
    mixed = embedded.masked_scatter(visual[..., None], seen.pooler_output.to(embedded.dtype))
    hidden = model.model.language_model(
        inputs_embeds=mixed,
        position_ids=places,
        visual_pos_masks=visual,
        deepstack_visual_embeds=seen.deepstack_features,
        use_cache=False,
    ).last_hidden_state
    asked = labels[:, 1:] != UNASKED
    logits = model.lm_head(hidden[:, :-1][asked])
    return functional.cross_entropy(logits.float(), labels[:, 1:][asked])


def _told(processor: Qwen3VLProcessor, described: Sequence[Described]) -> tuple[Tensor, Tensor]:
    """Token ids [B, L] of question and answer, padded on the right, and the answers' tokens alone as labels."""
    tokenizer = processor.tokenizer
    start = tokenizer(question(processor).replace("<|image_pad|>", "<|image_pad|>" * (_SIDE * _SIDE))).input_ids
    answers = [tokenizer(f"{one.text}<|im_end|>").input_ids for one in described]
    longest = max(map(len, answers))
    pad = tokenizer.pad_token_id
    ids = [[*start, *answer, *[pad] * (longest - len(answer))] for answer in answers]
    labels = [[*[UNASKED] * len(start), *answer, *[UNASKED] * (longest - len(answer))] for answer in answers]
    return torch.tensor(ids), torch.tensor(labels)


def question(processor: Qwen3VLProcessor) -> str:
    """The chat with one picture up to where the answer begins."""
    chat: list[dict[str, Any]] = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": QUESTION}]}]
    text: str = processor.apply_chat_template(chat, add_generation_prompt=True)
    return text


def _seeing(described: Tensor, truths: list[Tensor]) -> Tensor:
    shape, colour, dot, mean = described.split(_ANSWERS, dim=-1)
    shapes, colours, dots, means = truths
    return (
        _asked(shape, shapes)
        + _asked(colour, colours)
        + 2 * _dots_found(dot, dots)
        + 10 * functional.mse_loss(mean, means)
    )


def _dots_found(logits: Tensor, truth: Tensor) -> Tensor:
    """Half of it belongs to the cells with a dot, which are one in thirty: else "none" is an answer that pays."""
    losses = functional.cross_entropy(logits.mT, truth, ignore_index=UNASKED, reduction="none")
    parts = ((truth != UNASKED) & (truth != NO_DOT), truth == NO_DOT)
    return sum(((losses * part).sum() / part.sum().clamp(min=1) for part in parts), torch.zeros(()))


def _asked(logits: Tensor, truth: Tensor) -> Tensor:
    """Cross-entropy over the cells that have an answer; 0 where none has."""
    losses = functional.cross_entropy(logits.mT, truth, ignore_index=UNASKED, reduction="sum")
    return losses / (truth != UNASKED).sum().clamp(min=1)


def _truths(described: Sequence[Described]) -> list[Tensor]:
    answers = [_truth(one) for one in described]
    return [torch.stack(part) for part in zip(*answers, strict=True)]


def _truth(described: Described) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Per cell: shape (or none), its colour, the colour of a dot (or none), the mean colour; of portraits the last."""
    side = described.picture.shape[0]
    unasked = np.full(_SIDE * _SIDE, UNASKED)
    cells = (unasked, unasked, unasked)
    if described.items is not None:
        cells = scene_cells(described.items, described.dots, side, side, _SIDE)
    shapes, colours, dots = map(torch.from_numpy, cells)
    return shapes, colours, dots, torch.from_numpy(mean_colours(described.picture, _SIDE))


def _optimizers(trained: dict[str, nn.Parameter], recipe: Qwen3VLRecipe) -> list[torch.optim.Optimizer]:
    """Muon for the blocks' and mergers' matrices; AdamW for embeddings, heads, vectors."""
    matrices: list[nn.Parameter] = []
    others: list[nn.Parameter] = []
    for name, parameter in trained.items():
        inner = parameter.ndim == 2 and ("blocks." in name or "layers." in name or "merger" in name)
        (matrices if inner else others).append(parameter)
    return [
        Muon([{"params": matrices, "peak": recipe.matrix_lr}]),
        torch.optim.AdamW([{"params": others, "peak": recipe.vector_lr}], weight_decay=0.0, betas=(0.9, 0.98)),
    ]


def tell(model: Qwen3VLForConditionalGeneration, processor: Qwen3VLProcessor, picture: Any) -> str:
    """The model's own description of a PIL picture, greedily."""
    inputs = processor(text=[question(processor)], images=[picture], return_tensors="pt")
    with torch.no_grad():
        # Its own annotation of `self` excludes the class that it belongs to.
        ids: Any = model.generate(**inputs, max_new_tokens=80, do_sample=False)  # type: ignore[misc]
    text: str = processor.tokenizer.decode(ids[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    return text.strip()
