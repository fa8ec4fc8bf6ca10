"""Stage 6: the transformer learns from where its own steps lead.

Flow matching teaches from mixtures of noise and the truth. Sampling stands elsewhere: every step starts where the
earlier ones, with their errors, have ended, and the more steps the further it drifts. Here edits are walked from noise
as sampling walks them, and wherever the walk stands the transformer learns to head for the truth. That needs one truth,
which an edit has; pictures from words alone, edits that nobody asked for and those that leave a choice go on as in flow
matching. Walked, they would learn the mean of all that may be right, which is a blur.

Ning et al., "Elucidating the Exposure Bias in Diffusion Models", 2023, for the error; Ross, Gordon & Bagnell, "A
Reduction of Imitation Learning and Structured Prediction to No-Regret Online Learning", 2011, for the cure.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
from diffusers import QwenImageTransformer2DModel as Transformer
from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt
from torch import Tensor
from transformers import Qwen2_5_VLForConditionalGeneration as TextEncoder

from darkroom.pocket.stages.checkpoint import keep, resume
from darkroom.pocket.stages.course import Course
from darkroom.pocket.stages.flow_loss import flow_loss, noise_levels
from darkroom.pocket.stages.flow_stage import FlowRecipe
from darkroom.pocket.stages.free_cores import beside_others
from darkroom.pocket.stages.lean_transformer import compiled_velocity, prepare, restore, velocity
from darkroom.pocket.stages.lesson import Lesson, draw_lesson
from darkroom.pocket.stages.optimizers import make_optimizers, set_rates
from darkroom.pocket.stages.schedule import warm_then_linear
from darkroom.pocket.stages.walks import Batch, Walk
from darkroom.technique.schedule import Schedule


@dataclass(frozen=True)
class PathRecipe:
    """batch: edits of one picture walked in a step; four times as many pictures where nothing is walked.

    counts: of steps in a walk, one of them by chance. learns: at how many of a walk's steps it learns, the others only
    lead there. open: kinds of edits that leave a choice, here of a place; they are not walked. compiled: off, since
    on a CPU compiling it with and without gradients takes about as long as it saves. What is not here is as in the flow
    stage's recipe.
    """

    steps: PositiveInt = 1200
    batch: PositiveInt = 8
    counts: Annotated[tuple[PositiveInt, ...], Field(min_length=1)] = (6, 8, 12)
    learns: PositiveInt = 4
    open: tuple[str, ...] = ("add",)
    matrix_lr: PositiveFloat = 0.002
    vector_lr: PositiveFloat = 2e-4
    warmup: NonNegativeInt = 20
    compiled: bool = False


def train_path(
    transformer: Transformer,
    text_encoder: TextEncoder,
    lessons: Sequence[Lesson],
    schedule: Schedule,
    recipe: PathRecipe,
    flow: FlowRecipe,
    checkpoint: Path,
    course: Course,
    until_step: int | None = None,
    yielding: bool = False,
) -> list[float]:
    """Train the transformer in place, the text encoder stays as it is. Returns this call's losses.

    `lessons` as for the flow stage; `schedule`: the one that sampling will walk by. Continues from `checkpoint` where
    it exists. `until_step` and `yielding` as for the flow stage. Raises OutOfTime when the course's minutes are over.
    """
    losses: list[float] = []
    text_encoder.requires_grad_(False)
    prepare(transformer)
    with course.at(transformer, text_encoder):
        parts = dict(part for lesson in lessons for part in _parts(lesson, recipe.open))
        walker = _Walker(transformer, text_encoder, parts, schedule, recipe, flow)

        def kept(done: int) -> None:
            keep(checkpoint, done, walker.trained, walker.optimizers)
            course.report(f"path {done}/{recipe.steps}: loss {np.mean(losses[-course.every :]):.4f}")

        first = resume(checkpoint, walker.trained, walker.optimizers)
        steps = course.steps("path", first, recipe.steps, kept, until_step)
        for step in beside_others(steps) if yielding else steps:
            losses.append(walker.step(step))
    restore(transformer)
    return losses


def _parts(lesson: Lesson, open_kinds: Collection[str]) -> Iterator[tuple[Lesson, bool]]:
    """What is walked of the lesson, and what is not, as far as there is something of each."""
    pairs, drawn = lesson.pairs, not lesson.pairs.references
    for walked in (True, False):
        rows = [row for row in lesson.rows if walked != (drawn or pairs.kinds[row] in open_kinds)]
        if rows:
            yield lesson.part(rows), walked


class _Walker:
    """What a step needs. lessons: each with whether it is walked."""

    def __init__(
        self,
        transformer: Transformer,
        text_encoder: TextEncoder,
        lessons: Mapping[Lesson, bool],
        schedule: Schedule,
        recipe: PathRecipe,
        flow: FlowRecipe,
    ) -> None:
        self.transformer, self.text_encoder, self.lessons = transformer, text_encoder, lessons
        self.schedule, self.recipe, self.flow = schedule, recipe, flow
        self.trained = {f"transformer.{name}": parameter for name, parameter in transformer.named_parameters()}
        rates = replace(flow, matrix_lr=recipe.matrix_lr, vector_lr=recipe.vector_lr)
        self.optimizers = make_optimizers(self.trained, rates)
        self._velocity = compiled_velocity(transformer.device) if recipe.compiled else velocity

    def step(self, number: int) -> float:
        """One step of the optimizers; returns the loss."""
        rng = np.random.default_rng((self.flow.seed, 12, number))
        lesson = draw_lesson(rng, list(self.lessons))
        asked = rng.random() >= self.flow.blank
        walked = asked and self.lessons[lesson]
        count = (1 if walked else 4) * lesson.size(self.recipe.batch)
        chosen, ids = lesson.choose(rng, count, blank=float(not asked))
        batch = Batch(self.text_encoder, lesson, chosen, ids, self._velocity)
        generator = torch.Generator().manual_seed(self.flow.seed * 1_000_003 + number)
        walk = batch.walk(self.transformer, earlier_form=rng.random() < self.flow.earlier_form)
        loss = self._walked(batch, walk, rng, generator) if walked else self._mixed(batch, walk, generator)
        set_rates(self.optimizers, warm_then_linear(number, self.recipe.steps, self.recipe.warmup))
        for optimizer in self.optimizers:
            optimizer.step()
            optimizer.zero_grad()
        return loss

    def _walked(self, batch: Batch, walk: Walk, rng: np.random.Generator, generator: torch.Generator) -> float:
        """Walk the batch from noise to its end and leave gradients of some of its steps. Returns their mean loss."""
        count = int(rng.choice(self.recipe.counts))
        learning = rng.choice(count, size=min(count, self.recipe.learns), replace=False)
        x, total = batch.noise(generator), 0.0
        levels = self.schedule.sigmas(count, tokens=x.shape[1]).tolist()
        for number, (sigma, sigma_next) in enumerate(pairwise(levels)):
            with torch.set_grad_enabled(number in learning):
                taken = walk(x, sigma)
            if number in learning:
                loss = self._loss(batch, taken - (x - batch.target) / sigma, sigma) / len(learning)
                loss.backward()
                total += float(loss.detach())
            x = x + (sigma_next - sigma) * taken.detach()
        return total

    def _mixed(self, batch: Batch, walk: Walk, generator: torch.Generator) -> float:
        """As in the flow stage, from mixtures of noise and the truth. Returns the loss."""
        noise = batch.noise(generator)
        sigma = noise_levels(len(noise), self.flow.shift, self.flow.blind_from, generator).to(batch.device)
        mixed = torch.lerp(batch.target, noise, sigma[:, None, None])
        loss = self._loss(batch, walk(mixed, sigma) - (noise - batch.target), sigma)
        loss.backward()
        return float(loss.detach())

    def _loss(self, batch: Batch, difference: Tensor, sigma: float | Tensor) -> Tensor:
        levels = torch.as_tensor(sigma, device=batch.device).expand(len(difference))
        return flow_loss(difference.square().mean(dim=-1), batch.changed, levels, self.flow)
