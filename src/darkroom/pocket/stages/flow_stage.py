"""Stage 4: transformer and text encoder learn together to edit, by flow matching on cached latents."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
from diffusers import QwenImageTransformer2DModel
from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt
from torch import Tensor
from transformers import Qwen2_5_VLForConditionalGeneration

from darkroom.pocket.stages.averaging import Average
from darkroom.pocket.stages.checkpoint import fill, keep, load_checkpoint
from darkroom.pocket.stages.course import Course
from darkroom.pocket.stages.flow_loss import flow_loss, noise_levels
from darkroom.pocket.stages.free_cores import beside_others
from darkroom.pocket.stages.lean_transformer import Velocity, compiled_velocity, prepare, restore, velocity
from darkroom.pocket.stages.lesson import Lesson, draw_lesson
from darkroom.pocket.stages.optimizers import make_optimizers, set_rates
from darkroom.pocket.stages.readings import Readings
from darkroom.pocket.stages.schedule import ramp, trapezoid
from darkroom.pocket.stages.walks import Batch, Look
from darkroom.pocket.world.tones import TONES


@dataclass(frozen=True)
class FlowRecipe:
    """One step is one batch of edits whose prompts have the same number of tokens: nothing is padded."""

    steps: PositiveInt = 2800
    batch: PositiveInt = 32
    matrix_lr: PositiveFloat = 0.01
    # For what the transformer's start has filled in: the first block's attention, the way in and the way out.
    gentle: NonNegativeFloat = 0.2
    vector_lr: PositiveFloat = 1e-3
    embedding_lr: PositiveFloat = 3e-3
    warmup: NonNegativeInt = 100
    # Share of the run, at its end, over which the learning rates fall to zero.
    cooldown: Annotated[float, Field(ge=0, le=1)] = 0.3
    # Share of batches whose instruction is blank: what true CFG steers away from.
    blank: Annotated[float, Field(ge=0, le=1)] = 0.08
    # Share of the loss that belongs to the cells that an edit changes, however few they are.
    changed_share: Annotated[float, Field(gt=0, le=1)] = 0.6
    # Share of batches in 2509's form: one checkpoint serves `zero_cond_t` on and off.
    earlier_form: Annotated[float, Field(ge=0, le=1)] = 0.2
    # Below this sigma the loss is that of the clean latents, which sampling's small last steps call for.
    full_weight_sigma: PositiveFloat = 0.4
    # exp(mu) of the scheduler for 64 tokens: half of training sees the noise levels that sampling visits.
    shift: PositiveFloat = 1.63
    # The other half: so much noise that the picture does not show the edit yet, and only words tell what to change.
    blind_from: Annotated[float, Field(ge=0, lt=1)] = 0.75
    # Weight of the loss of the pointer: halfway through the blocks each cell must know whether the edit changes it.
    # The velocity's own loss hardly says which shape the words mean; this one says nothing else.
    pointing: NonNegativeFloat = 0.15
    # Weight of the loss of naming: early in the blocks each cell of a reference must know which shape it shows. Without
    # it the blocks hardly learn to tell shapes apart, and words find the wrong one.
    naming: NonNegativeFloat = 0.15
    # Weight of the loss of hearing: early in the blocks every cell must know which shapes, colour and direction the
    # words name. Then a cell that knows its own shape finds whether it is meant; without it that takes thousands of
    # steps.
    hearing: NonNegativeFloat = 0.15
    # Weight of the loss of spelling: halfway through the blocks each noisy cell must know which letter it will show.
    spelling: NonNegativeFloat = 0.15
    # For so many steps, at the beginning, but half of the run at most, edits whose words name a shape are read: naming,
    # hearing, pointing and spelling are taught, and the velocity, whose loss is so much larger that beside it they are
    # learned more slowly, only with the weight `velocity_from`. Over the next `velocity_warmup` steps, but half of the
    # rest at most, its weight rises to 1; where it rose at once, much of what was read was unlearned.
    reading: NonNegativeInt = 0
    velocity_from: Annotated[float, Field(ge=0, le=1)] = 0.1
    velocity_warmup: NonNegativeInt = 800
    # Share of what follows, at its beginning, in which only kinds of edits named `first` are taught: all others need
    # what they teach of words, colours and cells, and among all others it is learned several times more slowly.
    alone: Annotated[float, Field(ge=0, lt=1)] = 0.0
    first: tuple[str, ...] = ("recolour", "background", "remove", *TONES)
    average: Annotated[float, Field(ge=0, lt=1)] = 0.999
    # Whether the text encoder's language model learns beside the transformer; where not, it stays as it is.
    train_text: bool = True
    seed: NonNegativeInt = 0
    compiled: bool = True


class Learner:
    """What a step needs: the two models, their optimizers and the moving average of their weights."""

    def __init__(
        self,
        transformer: QwenImageTransformer2DModel,
        text_encoder: Qwen2_5_VLForConditionalGeneration,
        recipe: FlowRecipe,
    ) -> None:
        self.transformer, self.text_encoder, self.recipe = transformer, text_encoder, recipe
        text_encoder.requires_grad_(False)
        words = text_encoder.model.language_model.requires_grad_(recipe.train_text)
        self.device = transformer.device
        self.readings = Readings(transformer.inner_dim).to(self.device)
        self.trained = {
            **{f"transformer.{name}": p for name, p in transformer.named_parameters()},
            **({f"text.{name}": p for name, p in words.named_parameters()} if recipe.train_text else {}),
            **dict(self.readings.named_parameters()),
        }
        self.optimizers = make_optimizers(self.trained, recipe)
        self.average = Average(self.trained, recipe.average)
        self.velocity: Velocity = compiled_velocity(self.device) if recipe.compiled else velocity

    def keep(self, checkpoint: Path, step: int) -> None:
        keep(checkpoint, step, self.trained, self.optimizers, average=self.average.values)

    def resume(self, checkpoint: Path) -> int:
        """The step that `checkpoint` holds, 0 where there is none."""
        state = load_checkpoint(checkpoint)
        if state is None:
            return 0
        for name, value in self.average.values.items():
            value.copy_(state["average"][name])
        return fill(state, self.trained, self.optimizers)


def train_flow(
    transformer: QwenImageTransformer2DModel,
    text_encoder: Qwen2_5_VLForConditionalGeneration,
    lessons: Sequence[Lesson],
    recipe: FlowRecipe,
    checkpoint: Path,
    course: Course,
    until_step: int | None = None,
    yielding: bool = False,
) -> list[float]:
    """Train the models in place; they end with the moving average of their weights. Returns this call's losses.

    Each of `lessons` holds edits of one size and number of references; a batch comes from one of them.
    Continues from `checkpoint` where it exists. `until_step` ends this call early, with a checkpoint, as a kill would.
    `yielding` lets the number of threads follow what other processes do (`beside_others`); sums then round differently.
    """
    prepare(transformer)
    losses: list[float] = []
    begun = time.monotonic()
    curriculum = _Curriculum(lessons, recipe)
    with course.at(transformer, text_encoder):
        learner = Learner(transformer, text_encoder, recipe)

        def kept(done: int) -> None:
            learner.keep(checkpoint, done)
            rate = len(losses) * recipe.batch / (time.monotonic() - begun)
            loss = np.mean(losses[-course.every :])
            course.report(f"flow {done}/{recipe.steps}: loss {loss:.4f}, {rate:.0f} edits/s")

        steps = course.steps("flow", learner.resume(checkpoint), recipe.steps, kept, until_step)
        for step in beside_others(steps) if yielding else steps:
            losses.append(_step(learner, curriculum.taught(step), step, curriculum.velocity_weight(step)))
        learner.average.write(learner.trained)
    restore(transformer)
    return losses


class _Curriculum:
    """What is taught when: first what names a shape, mostly to be read; then few kinds, then everything."""

    def __init__(self, lessons: Sequence[Lesson], recipe: FlowRecipe) -> None:
        self._all, self._recipe = lessons, recipe
        self._read: Sequence[Lesson] = ()
        self._few: Sequence[Lesson] = ()
        if recipe.reading:
            self._read = _chosen(lessons, lambda lesson: lesson.naming_shapes)
        if recipe.alone:
            self._few = _chosen(lessons, lambda lesson: [kind in recipe.first for kind in lesson.pairs.kinds])
        # Where nothing names a shape there is little to read.
        self._read_until = min(recipe.reading, recipe.steps // 2) if self._read else 0
        rest = recipe.steps - self._read_until
        self._warmup = min(recipe.velocity_warmup, rest // 2)
        self._mixed_from = self._read_until + recipe.alone * rest

    def taught(self, step: int) -> Sequence[Lesson]:
        if step < self._read_until:
            return self._read
        return self._few if self._few and step < self._mixed_from else self._all

    def velocity_weight(self, step: int) -> float:
        """Of the velocity's loss, beside that of the readings; 1 where nothing is read first."""
        if not self._read_until:
            return 1.0
        return ramp(step, self._read_until, self._warmup, self._recipe.velocity_from)


def _chosen(lessons: Sequence[Lesson], wanted: Callable[[Lesson], Sequence[bool]]) -> Sequence[Lesson]:
    """What of `lessons` is `wanted`, which is told for each of a lesson's pairs."""
    told = [(lesson, wanted(lesson)) for lesson in lessons]
    rows = [(lesson, [row for row in lesson.rows if right[row]]) for lesson, right in told]
    return [lesson.part(chosen) for lesson, chosen in rows if chosen]


def _step(learner: Learner, lessons: Sequence[Lesson], step: int, velocity_weight: float) -> float:
    """One step of the optimizers; returns the loss, in which the velocity's has this weight."""
    recipe = learner.recipe
    rng = np.random.default_rng((recipe.seed, 4, step))
    lesson = draw_lesson(rng, lessons)
    chosen, ids = lesson.choose(rng, lesson.size(recipe.batch), recipe.blank)
    batch = Batch(learner.text_encoder, lesson, chosen, ids, learner.velocity)
    generator = torch.Generator().manual_seed(recipe.seed * 1_000_003 + step)
    look = batch.look(learner.transformer, earlier_form=rng.random() < recipe.earlier_form)
    loss = _loss(learner, batch, look, generator, ids[0].tolist() != lesson.blank, velocity_weight)
    loss.backward()
    factor = trapezoid(step, recipe.steps, recipe.warmup, recipe.cooldown)
    set_rates(learner.optimizers, factor)
    for optimizer in learner.optimizers:
        optimizer.step()
        optimizer.zero_grad()
    learner.average.update(learner.trained, step)
    return float(loss.detach())


def _loss(
    learner: Learner, batch: Batch, look: Look, generator: torch.Generator, asked: bool, velocity_weight: float
) -> Tensor:
    """The velocity's loss by its weight and, where there are references, that of the readings."""
    noise = batch.noise(generator)
    sigma = noise_levels(len(noise), learner.recipe.shift, learner.recipe.blind_from, generator).to(learner.device)
    found, hidden = look(torch.lerp(batch.target, noise, sigma[:, None, None]), sigma)
    read = torch.zeros((), device=learner.device)
    if not batch.drawn:
        read = learner.readings.loss(hidden, batch, asked, learner.recipe)
    if not velocity_weight:
        # Then the last blocks need no backward pass.
        return read
    errors = (found - (noise - batch.target)).pow(2).mean(dim=-1)
    return velocity_weight * flow_loss(errors, batch.changed, sigma, learner.recipe) + read
