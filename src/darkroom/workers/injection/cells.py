"""The pictures of a sweep: which there are, and how they are made together."""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from darkroom.media import to_uint8
from darkroom.models import generation
from darkroom.models.editor import Conditioning, Editor, batches
from darkroom.technique.sampling import sample
from darkroom.workers.injection.prompting import Base
from darkroom.workers.recipe import Desk, Event, Progress

BASE, OWN, WRONG, RANDOM, CAPTION = "base", "identity", "wrong", "random", "caption"


@dataclass(frozen=True)
class Plan:
    """A sweep's settings, the job's own or the profile's."""

    alphas: tuple[float, ...]
    gen_seeds: tuple[int, ...]
    steps: int
    guidance: float
    height: int
    width: int
    base_prompt: str
    negative_prompt: str

    def record(self) -> dict[str, Any]:
        """As JSON values."""
        return {**vars(self), "alphas": list(self.alphas), "gen_seeds": list(self.gen_seeds)}


@dataclass(frozen=True)
class Cell:
    """One picture to make. kind: whose residual it is, or "base" (none) or "caption" (words instead)."""

    kind: str
    alpha: float
    seed: int
    embeds: Tensor


def base_cells(plan: Plan, base: Base) -> list[Cell]:
    """α = 0: the prompt alone, the same for everybody."""
    return [Cell(BASE, 0.0, seed, base.embeds) for seed in plan.gen_seeds]


def cells_of(plan: Plan, base: Base, residuals: Mapping[str, Tensor], ceiling: Tensor | None) -> list[Cell]:
    """Each residual at each strength but 0, and the caption as a prompt where there is one."""
    cells = [
        Cell(kind, alpha, seed, embeds)
        for kind, residual in residuals.items()
        for alpha in plan.alphas
        if alpha
        for embeds in [base.injected(residual, alpha)]
        for seed in plan.gen_seeds
    ]
    if ceiling is not None:
        cells += [Cell(CAPTION, 0.0, seed, ceiling) for seed in plan.gen_seeds]
    return cells


def render(
    cells: Sequence[Cell], negative: Tensor | None, plan: Plan, editor: Editor, desk: Desk, stage: str
) -> Generator[Event, None, list[Image.Image]]:
    """Pictures of the cells, in their order; as many share a forward as length and profile allow.

    Those without a residual run alone, so that they are what `image_generate` makes of the same prompt, bit for bit.
    """
    alone = [[number] for number, cell in enumerate(cells) if cell.kind == BASE]
    others = [number for number, cell in enumerate(cells) if cell.kind != BASE]
    lengths = [len(cells[number].embeds) for number in others]
    groups = alone + [[others[i] for i in group] for group in batches(lengths, editor.max_batch)]
    sigmas = editor.sigmas(plan.steps, plan.width, plan.height)
    pictures: dict[int, Image.Image] = {}
    for done, group in enumerate(groups):
        prompts = tuple(cells[number].embeds for number in group)
        conditioning = Conditioning(prompts, negative, generation.no_references(editor))
        latents = editor.noise([cells[number].seed for number in group], plan.width, plan.height)
        steps = sample(editor.denoiser(conditioning, plan.width, plan.height, plan.guidance), latents, sigmas)
        for count, step in enumerate(desk.clock.timed("denoise", steps), 1):
            latents = step.latents
            yield Progress(stage, done * plan.steps + count, len(groups) * plan.steps)
        with desk.clock.span("decode"), torch.no_grad():
            decoded = editor.decode(latents, plan.width, plan.height)
        pictures |= {number: to_uint8(pixels) for number, pixels in zip(group, decoded, strict=True)}
    return [pictures[number] for number in range(len(cells))]
