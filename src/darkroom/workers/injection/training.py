"""Training of a head: the objectives over people's photos, in an order that its seed decides, from epoch to epoch."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor
from torch.utils.data import DataLoader

from darkroom.jobs import InjectionTrain
from darkroom.models.differentiable import recomputing
from darkroom.models.editor import Conditioning, Editor
from darkroom.models.generation import no_references
from darkroom.models.heads import Head
from darkroom.technique.injection import (
    CaptionWeights,
    InjectionHead,
    caption_loss,
    flow_loss,
    zero_loss,
)
from darkroom.workers.injection.prompting import Base

COOLDOWN = 0.3
"""Share of a training, at its end, over which lr falls to zero in a straight line."""


@dataclass(frozen=True)
class Lesson:
    """One person: features of each photo, the caption's tokens as the slots shall be, and the photos as latents.

    features: [levels, N_i, D] each, on the CPU: those of many people would crowd the device. target: [slots, H], for
    the caption objective. latents: [1, cells, 64] each, for the flow objective. held_out: how many photos, the last
    ones, are for validation alone.
    """

    name: str
    features: tuple[Tensor, ...]
    target: Tensor | None
    latents: tuple[Tensor, ...]
    held_out: int

    @property
    def views(self) -> range:
        """Photos to train on."""
        return range(len(self.features) - self.held_out)


@dataclass(frozen=True)
class Sample:
    """One photo of one person to learn from, and another of the same person to arrive at."""

    lesson: Lesson
    view: int
    other: int


@dataclass
class Course:
    """How far a training has come. losses: per optimizer step. validation: per epoch, None without held-out photos."""

    epoch: int = 0
    losses: list[float] = field(default_factory=list)
    validation: list[float | None] = field(default_factory=list)

    def record(self) -> dict[str, Any]:
        """As JSON values."""
        return {"epoch": self.epoch, "losses": list(self.losses), "validation": list(self.validation)}


class Trainer:
    """One head in training. The transformer and everything else is frozen; the head is trained in float32.

    size: (width, height) of the pictures of the flow objective. steps: of the schedule that its noise levels are of.
    """

    def __init__(
        self,
        job: InjectionTrain,
        module: InjectionHead,
        lessons: Sequence[Lesson],
        base: Base,
        editor: Editor,
        size: tuple[int, int],
        steps: int,
        earlier: tuple[Course, Mapping[str, Tensor]] | None = None,
    ) -> None:
        self.job, self.lessons, self.base, self.editor, self.size = job, lessons, base, editor, size
        self.accelerator = Accelerator(
            gradient_accumulation_steps=job.gradient_accumulation, cpu=editor.device.type == "cpu"
        )
        optimizer = torch.optim.AdamW(module.parameters(), job.lr, weight_decay=0.01)
        self.course = Course()
        if earlier is not None:
            self.course, state = earlier
            restore(optimizer, module, state)
        self.module, self._optimizer = self.accelerator.prepare(module, optimizer)
        self._slots = base.slots
        self._sigmas = editor.sigmas(steps, *size)[:-1] if job.objective in ("flow", "both") else base.gain[:0]

    @property
    def batches(self) -> int:
        """Batches of an epoch."""
        return -(-sum(len(lesson.views) for lesson in self.lessons) // self.job.batch_size)

    @property
    def is_finite(self) -> bool:
        """Whether the head's weights and its last validation are numbers that can go on."""
        last = self.course.validation[-1:] or [None]
        return all(bool(value.isfinite().all()) for value in self.module.parameters()) and math.isfinite(last[0] or 0.0)

    def epoch(self) -> Iterator[float]:
        """One pass over all photos; yields each batch's loss, and validates at the end."""
        generator = torch.Generator().manual_seed(self.job.seed + 1_000_003 * self.course.epoch)
        # Its end is where gathered gradients are used, however few: an epoch leaves nothing to the next one.
        loader: Any = DataLoader(self._samples(generator), self.job.batch_size, collate_fn=list)  # type: ignore[arg-type]
        gathered: list[float] = []
        for batch in self.accelerator.prepare_data_loader(loader, device_placement=False):
            with self.accelerator.accumulate(self.module):
                loss = self._loss(batch, generator)
                self.accelerator.backward(loss)
                for group in self._optimizer.param_groups:
                    group["lr"] = self.job.lr * self._rate()
                self._optimizer.step()
                self._optimizer.zero_grad()
            gathered.append(float(loss.detach()))
            if self.accelerator.sync_gradients:
                self.course.losses.append(sum(gathered) / len(gathered))
                gathered = []
            yield float(loss.detach())
        self.course.validation.append(self._validated())
        self.course.epoch += 1

    def head(self, about: Mapping[str, Any], with_state: bool) -> Head:
        """What has been learnt; with_state: and what is needed to go on."""
        module = self.accelerator.unwrap_model(self.module)
        return Head(module, about, state_of(self._optimizer, module) if with_state else {})

    def _rate(self) -> float:
        """Of lr, at the optimizer step at hand: all of it, and over the last steps less and less."""
        steps = -(-self.batches // self.job.gradient_accumulation) * self.job.epochs
        return min(1.0, (steps - len(self.course.losses)) / (COOLDOWN * steps))

    def _samples(self, generator: torch.Generator) -> list[Sample]:
        pairs = [(lesson, view) for lesson in self.lessons for view in lesson.views]
        order = torch.randperm(len(pairs), generator=generator).tolist()
        shuffled = [pairs[i] for i in order]
        return [Sample(lesson, view, _another(lesson, view, generator)) for lesson, view in shuffled]

    def _loss(self, batch: Sequence[Sample], generator: torch.Generator) -> Tensor:
        residuals = self._residuals([sample.lesson.features[sample.view] for sample in batch])
        parts = []
        if self.job.objective == "zero":
            return zero_loss(self._slots, residuals)
        if self.job.objective in ("caption", "both"):
            parts.append(self._caption([sample.lesson for sample in batch], residuals))
        if self.job.objective in ("flow", "both"):
            weight = self.job.flow_weight if self.job.objective == "both" else 1.0
            parts.append(weight * self._flow(batch, residuals, generator))
        return torch.stack(parts).sum()

    def _residuals(self, features: Sequence[Tensor]) -> Tensor:
        """[B, slots, H]; in one call where all photos have as many tokens."""
        device = self._slots.device
        if len({seen.shape for seen in features}) == 1:
            return torch.as_tensor(self.module(torch.stack(list(features)).to(device)))
        return torch.stack([self.module(seen.to(device)) for seen in features])

    def _caption(self, lessons: Sequence[Lesson], residuals: Tensor) -> Tensor:
        job = self.job
        weights = CaptionWeights(job.cosine_weight, job.mse_weight, job.rms_weight)
        targets = [lesson.target for lesson in lessons if lesson.target is not None]
        assert len(targets) == len(lessons), "the caption objective has a caption for everybody"
        return caption_loss(self._slots, residuals, torch.stack(targets), self.base.gain, weights)

    def _flow(self, batch: Sequence[Sample], residuals: Tensor, generator: torch.Generator) -> Tensor:
        """All photos of a batch at one noise level, which one forward can share."""
        x0 = torch.cat([sample.lesson.latents[sample.other] for sample in batch])
        noise = torch.randn(x0.shape, generator=generator).to(x0)
        # One of the levels that a sweep passes through: modulation is tabled per level.
        sigma = self._sigmas[int(torch.randint(len(self._sigmas), (), generator=generator))]
        index = torch.tensor(self.base.places, device=x0.device)
        embeds = [
            self.base.embeds.float().index_copy(0, index, self._slots + residual).to(self.base.embeds.dtype)
            for residual in residuals
        ]
        conditioning = Conditioning(tuple(embeds), None, no_references(self.editor))
        denoise = recomputing(self.editor, self.editor.denoiser(conditioning, *self.size))
        return flow_loss(denoise((1 - sigma) * x0 + sigma * noise, sigma).velocity, x0, noise)

    @torch.no_grad()
    def _validated(self) -> float | None:
        """The objective on held-out photos, with the same noise every time; None where there are none."""
        held = [
            Sample(lesson, view, lesson.views[0] if lesson.views else view)
            for lesson in self.lessons
            for view in range(len(lesson.views), len(lesson.features))
        ]
        if not held:
            return None
        generator = torch.Generator().manual_seed(self.job.seed)
        size = self.job.batch_size
        parts = [held[start : start + size] for start in range(0, len(held), size)]
        return sum(float(self._loss(part, generator)) * len(part) for part in parts) / len(held)


def _another(lesson: Lesson, view: int, generator: torch.Generator) -> int:
    """Another photo of the same person to train on, or the same one where there is no other."""
    others = [other for other in lesson.views if other != view]
    return others[int(torch.randint(len(others), (), generator=generator))] if others else view


def state_of(optimizer: Any, module: InjectionHead) -> dict[str, Tensor]:
    """AdamW's moments and step of every parameter, by the parameter's name."""
    inner = getattr(optimizer, "optimizer", optimizer)
    found = {}
    for name, parameter in module.named_parameters():
        for key, value in inner.state.get(parameter, {}).items():
            found[f"{key}.{name}"] = value.detach()
    return found


def restore(optimizer: torch.optim.Optimizer, module: InjectionHead, state: Mapping[str, Tensor]) -> None:
    """Put back what `state_of` has taken."""
    parameters = dict(module.named_parameters())
    for key, value in state.items():
        kind, _, name = key.partition(".")
        optimizer.state[parameters[name]][kind] = value.clone()
