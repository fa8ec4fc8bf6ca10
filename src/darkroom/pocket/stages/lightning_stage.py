"""A step-distilled LoRA: four forwards of the pocket transformer do what many did, and true CFG is in them.

The student, the transformer with the LoRA, walks from noise down the levels of the `fast` preset and learns from
wherever it stands, so that what its earlier steps got wrong is part of what it is taught from. For a picture from words
alone its one step learns to end where the teacher, the transformer without the LoRA, ends in smaller ones with CFG. An
edit has one right result, and the teacher's many steps drift away from it (docs/pocket.md: fewer are better); there the
student learns to head for the truth.

Salimans & Ho, "Progressive Distillation for Fast Sampling of Diffusion Models", 2022; on the student's own path: Ross,
Gordon & Bagnell, "A Reduction of Imitation Learning and Structured Prediction to No-Regret Online Learning", 2011.
"""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from diffusers import QwenImageEditPlusPipeline
from diffusers import QwenImageTransformer2DModel as Transformer
from peft import LoraConfig, get_peft_model_state_dict
from pydantic import NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt
from torch import Tensor, nn
from transformers import Qwen2_5_VLForConditionalGeneration as TextEncoder

from darkroom.models.editor import batches
from darkroom.pocket.stages.checkpoint import keep, resume
from darkroom.pocket.stages.course import Course
from darkroom.pocket.stages.lean_transformer import prepare, restore
from darkroom.pocket.stages.lesson import Lesson, draw_lesson
from darkroom.pocket.stages.schedule import warm_then_linear
from darkroom.pocket.stages.walks import Batch, Walk, euler
from darkroom.technique.cfg import true_cfg
from darkroom.technique.schedule import LIGHTNING_SHIFT, Schedule

# Attention and MLP of both streams; modulation stays the transformer's own, so that its tables are kept.
_MATRICES = (
    *("to_q", "to_k", "to_v", "to_out.0", "add_q_proj", "add_k_proj", "add_v_proj", "to_add_out"),
    *("img_mlp.net.0.proj", "img_mlp.net.2", "txt_mlp.net.0.proj", "txt_mlp.net.2"),
)


@dataclass(frozen=True)
class LightningRecipe:
    """The defaults are those of the shipped LoRA.

    batch: edits of one picture in a step, each walked from noise to its end; twice as many from words alone. substeps:
    the teacher's for one of the student's. true_cfg_scale: the teacher's for pictures from words. truth: whether edits
    learn from their targets; otherwise from the teacher without CFG. held_out: draws of each set that
    only validate; no stage learns from them. shards, times: as `Recipe`'s.
    """

    steps: PositiveInt = 400
    batch: PositiveInt = 8
    intervals: PositiveInt = 4
    substeps: PositiveInt = 4
    shift: PositiveFloat = LIGHTNING_SHIFT
    true_cfg_scale: NonNegativeFloat = 3.0
    truth: bool = True
    rank: PositiveInt = 16
    lr: PositiveFloat = 1e-3
    warmup: NonNegativeInt = 20
    held_out: PositiveInt = 24
    shards: Mapping[str, tuple[PositiveInt, PositiveInt]] = field(
        default_factory=lambda: {
            "pairs": (1, 2500),
            "follows": (1, 1500),
            "portraits": (1, 2000),
            "captions": (1, 2500),
        }
    )
    times: Mapping[str, NonNegativeInt] = field(default_factory=dict)
    seed: NonNegativeInt = 0

    def levels(self) -> list[list[float]]:
        """[intervals][substeps + 1] sigmas: those that the teacher passes in each of the student's steps."""
        sigmas = Schedule().fixed(self.shift).sigmas(self.intervals * self.substeps, tokens=0)
        levels: list[list[float]] = sigmas.unfold(0, self.substeps + 1, self.substeps).tolist()
        return levels


@dataclass(frozen=True)
class HeldOut:
    """Mean squared error of final latents on held-out pairs: four steps without the LoRA and with it.

    Against the truth for edits, against the teacher's end for pictures from words.
    """

    without: float
    worn: float


def taught(batch: Batch, teacher: Transformer, recipe: LightningRecipe) -> Walk:
    """The velocity to learn from: with CFG where the picture comes from words alone."""
    told = batch.walk(teacher)
    if not batch.drawn or recipe.true_cfg_scale <= 1:
        return told
    untold = batch.silent_walk(teacher)
    return lambda x, sigma: true_cfg(told(x, sigma), untold(x, sigma), recipe.true_cfg_scale)


def wanted(batch: Batch, teacher: Transformer, recipe: LightningRecipe, x: Tensor, levels: Sequence[float]) -> Tensor:
    """[B, N, 64]: the one velocity by which the student should leave x at levels[0]."""
    if recipe.truth and not batch.drawn:
        return (x - batch.target) / levels[0]
    return (euler(taught(batch, teacher, recipe), x, levels) - x) / (levels[-1] - levels[0])


def distill(
    transformer: Transformer,
    text_encoder: TextEncoder,
    lessons: Sequence[Lesson],
    kept_out: Sequence[Lesson],
    recipe: LightningRecipe,
    checkpoint: Path,
    course: Course,
    until_step: int | None = None,
) -> tuple[list[float], list[HeldOut]]:
    """Leave `transformer` with a trained LoRA, its own weights as they were.

    Returns this call's losses, and where those of `kept_out` end, from which it does not learn.
    Continues from `checkpoint` where it exists. `until_step` ends this call early, with a checkpoint, as a kill would.
    Raises OutOfTime when the course's minutes are over.
    """
    text_encoder.requires_grad_(False)
    teacher = copy.deepcopy(transformer).requires_grad_(False)
    trained = _put_on(transformer, recipe)
    losses: list[float] = []
    prepare(teacher)
    prepare(transformer)
    with course.at(transformer, teacher, text_encoder):
        optimizer = torch.optim.AdamW(trained.values(), recipe.lr, betas=(0.9, 0.99), weight_decay=0.0)

        def kept(done: int) -> None:
            keep(checkpoint, done, trained, [optimizer])
            course.report(f"lightning {done}/{recipe.steps}: loss {np.mean(losses[-course.every :]):.4f}")

        first = resume(checkpoint, trained, [optimizer])
        for step in course.steps("lightning", first, recipe.steps, kept, until_step):
            for group in optimizer.param_groups:
                group["lr"] = recipe.lr * warm_then_linear(step, recipe.steps, recipe.warmup)
            losses.append(_teach(transformer, teacher, _draw(text_encoder, lessons, recipe, step), recipe, step))
            optimizer.step()
            optimizer.zero_grad()
        ends = [held_out(transformer, teacher, text_encoder, lesson, recipe) for lesson in kept_out]
    restore(transformer)
    return losses, ends


def save_lora(transformer: Transformer, folder: Path) -> None:
    """Write the LoRA that `transformer` wears to `folder`, as diffusers stores one, in float16."""
    layers = {name: value.half().contiguous() for name, value in get_peft_model_state_dict(transformer).items()}
    QwenImageEditPlusPipeline.save_lora_weights(folder, transformer_lora_layers=layers)


def _put_on(transformer: Transformer, recipe: LightningRecipe) -> dict[str, nn.Parameter]:
    """An untrained LoRA, which changes nothing yet; its matrices."""
    transformer.requires_grad_(False)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        transformer.add_adapter(LoraConfig(r=recipe.rank, lora_alpha=recipe.rank, target_modules=list(_MATRICES)))
    return {name: parameter for name, parameter in transformer.named_parameters() if parameter.requires_grad}


def _draw(text_encoder: TextEncoder, lessons: Sequence[Lesson], recipe: LightningRecipe, step: int) -> Batch:
    rng = np.random.default_rng((recipe.seed, 11, step))
    lesson = draw_lesson(rng, lessons)
    chosen, ids = lesson.choose(rng, lesson.size(recipe.batch), blank=0.0)
    return Batch(text_encoder, lesson, chosen, ids)


def _teach(student: Transformer, teacher: Transformer, batch: Batch, recipe: LightningRecipe, step: int) -> float:
    """Walk the batch from noise to its end; every interval adds its gradient. Returns their mean loss."""
    x = batch.noise(torch.Generator().manual_seed(recipe.seed * 1_000_003 + step))
    walk, total = batch.walk(student), 0.0
    for levels in recipe.levels():
        aim = wanted(batch, teacher, recipe, x, levels)
        taken = walk(x, levels[0])
        loss = (taken - aim).square().mean() / recipe.intervals
        loss.backward()
        total += float(loss.detach())
        x = x + (levels[-1] - levels[0]) * taken.detach()
    return total


def held_out(
    student: Transformer,
    teacher: Transformer,
    text_encoder: TextEncoder,
    lesson: Lesson,
    recipe: LightningRecipe,
) -> HeldOut:
    """Where both walk in the student's steps, from the same noise, and how far that is from what is right."""
    fine = recipe.levels()
    coarse = [levels[0] for levels in fine] + [0.0]
    errors = []
    for group in batches([len(lesson.pairs.prompts[row]) for row in lesson.rows], most=recipe.held_out):
        rows = torch.tensor([lesson.rows[number] for number in group])
        batch = Batch(text_encoder, lesson, rows, lesson.asked(rows))
        noise = batch.noise(torch.Generator().manual_seed(recipe.seed))
        aim = batch.target
        if batch.drawn:
            aim = euler(
                taught(batch, teacher, recipe), noise, [sigma for levels in fine for sigma in levels[:-1]] + [0.0]
            )
        ends = (euler(batch.walk(model), noise, coarse) for model in (teacher, student))
        errors.append([float((end - aim).square().mean()) * len(group) for end in ends])
    without, worn = np.sum(errors, axis=0) / len(lesson)
    return HeldOut(float(without), float(worn))
