"""Training of a bridge: first what a sharper picture would have said, then what an edit needs; all else is frozen.

Usable without the service: encode triples to `Lesson`s, make a `Trainer`, and drive `epoch` until it is finished.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
from accelerate import Accelerator
from PIL.Image import Image
from torch import Tensor

from darkroom.models.bridge import Bridge, merged_grids
from darkroom.models.differentiable import recomputing
from darkroom.models.editor import Conditioning, Editor, References
from darkroom.models.enhanced import EnhancedEditor
from darkroom.models.sight import VisualTokens, encode_text
from darkroom.models.vision import Sight, VisionExtractor
from darkroom.technique.bridge import VisionBridge, distillation_loss, edit_flow_loss

Phase = Literal["distill", "flow"]

GATE_LR = 10.0
"""The gate begins at zero, where nothing else can learn: it takes larger steps, and no weight decay."""


@dataclass(frozen=True)
class Triple:
    """One edit to learn from: RGB pictures before and after, and the instruction.

    sight: what the vision encoders see, where that is not the source. sharp: the same, drawn so that the editor's own
    vision model reads it; without it that model looks at twice as many cells a side, averaged two by two.
    """

    name: str
    source: Image
    target: Image
    prompt: str
    sight: Image | None = None
    sharp: Image | None = None

    @property
    def seen(self) -> Image:
        """What the vision encoders see."""
        return self.source if self.sight is None else self.sight


@dataclass(frozen=True)
class Options:
    """How a bridge is trained. held_out: share of the lessons, the last ones, that only validates."""

    distill_epochs: int = 10
    flow_epochs: int = 10
    batch_size: int = 8
    gradient_accumulation: int = 1
    lr: float = 1e-4
    weight_decay: float = 0.01
    held_out: float = 0.1
    sigma_steps: int = 20
    seed: int = 123

    @property
    def epochs(self) -> int:
        """Of both phases."""
        return self.distill_epochs + self.flow_epochs


@dataclass(frozen=True)
class Lesson:
    """A triple as the models see it.

    references: with the baseline's visual tokens [N, D]. levels: of the other model, [N, E] each, on the same grid.
    sharp: [N, D], what distillation aims at. target: [1, cells, C], clean latents of the edited picture.
    """

    prompt: str
    references: References
    levels: tuple[Tensor, ...]
    sharp: Tensor
    target: Tensor

    @property
    def kind(self) -> tuple[Any, ...]:
        """Lessons of one kind can share a forward of the transformer."""
        return self.references.grids, self.references.size


def lesson(editor: Editor, triple: Triple, sight: Sight) -> Lesson:
    """Encode a triple. sight: of `triple.seen`, by the other vision model."""
    references = editor.reference([triple.source], [triple.seen])
    (grid,) = merged_grids(references.visual, int(editor.processor.image_processor.merge_size))
    sharp = sharper(editor, triple, grid)
    width, height = editor.output_size(references, None)
    target = editor.reference([triple.target.resize((width, height))]).latents
    return Lesson(triple.prompt, references, sight.on(grid).levels, sharp, target)


def sharper(editor: Editor, triple: Triple, grid: tuple[int, int]) -> Tensor:
    """[rows · columns, D]: what the editor's own vision model says of a sharper look at the same picture."""
    own = VisionExtractor(editor.text_encoder.model, editor.processor.image_processor, editor.processor.tokenizer,
                          residency=editor.residency)  # fmt: skip
    if triple.sharp is not None:
        return own.look(triple.sharp, grid=grid).final
    rows, columns = grid
    fine = own.look(triple.seen, grid=(2 * rows, 2 * columns)).final
    return fine.reshape(rows, 2, columns, 2, -1).mean(dim=(1, 3)).reshape(rows * columns, -1)


@dataclass
class Course:
    """How far a training has come. losses: (phase, loss) per optimizer step. validation: before the first epoch and
    after each, both losses on held-out lessons."""

    epoch: int = 0
    losses: list[tuple[str, float]] = field(default_factory=list)
    validation: list[dict[str, float]] = field(default_factory=list)

    def record(self) -> dict[str, Any]:
        """As JSON values."""
        losses = [list(pair) for pair in self.losses]
        return {"epoch": self.epoch, "losses": losses, "validation": list(self.validation)}


class Trainer:
    """One bridge in training, in float32, on lessons whose order its seed decides; a restored one goes on the same.

    Raises ValueError where too few lessons are left to train on or to validate with.
    """

    def __init__(
        self,
        enhanced: EnhancedEditor,
        lessons: Sequence[Lesson],
        options: Options,
        course: Course | None = None,
        training: Mapping[str, Tensor] | None = None,
    ) -> None:
        self.editor, self.options, self.merge = enhanced.editor, options, enhanced.merge
        held = held_of(len(lessons), options.held_out)
        self.lessons, self.held_out = list(lessons[:-held]), list(lessons[-held:])
        device = self.editor.device
        self.accelerator = Accelerator(
            gradient_accumulation_steps=options.gradient_accumulation, cpu=device.type == "cpu"
        )
        bridge: VisionBridge = enhanced.bridge.module.float().requires_grad_(True).to(device)
        optimizer = torch.optim.AdamW(self._groups(bridge), options.lr, weight_decay=options.weight_decay)
        self.course = course or Course()
        restore(optimizer, bridge, training or {})
        # accelerate keeps this for the whole process: a training that was stopped between two steps leaves it off, and
        # then no optimizer steps.
        self.accelerator.sync_gradients = True
        self.bridge, self._optimizer = self.accelerator.prepare(bridge, optimizer)

    def _groups(self, bridge: VisionBridge) -> list[dict[str, Any]]:
        gate = [] if bridge.gate is None else [bridge.gate]
        rest = [parameter for parameter in bridge.parameters() if all(parameter is not own for own in gate)]
        return [{"params": rest}, {"params": gate, "lr": GATE_LR * self.options.lr, "weight_decay": 0.0}]

    @property
    def finished(self) -> bool:
        """Whether all epochs have been gone through."""
        return self.course.epoch >= self.options.epochs

    @property
    def phase(self) -> Phase:
        """What the next epoch is about."""
        return "distill" if self.course.epoch < self.options.distill_epochs else "flow"

    @property
    def is_finite(self) -> bool:
        """Whether the bridge's weights and its last validation are numbers that can go on."""
        last = self.course.validation[-1] if self.course.validation else {}
        weights = all(bool(value.isfinite().all()) for value in self.bridge.parameters())
        return weights and all(math.isfinite(loss) for loss in last.values())

    @property
    def batches(self) -> int:
        """Batches of an epoch."""
        return -(-len(self.lessons) // self.options.batch_size)

    def epoch(self) -> Iterator[float]:
        """One pass over all lessons; yields each batch's loss, and validates before the first and after each."""
        if not self.course.validation:
            self.course.validation.append(self.validate())
        generator = torch.Generator().manual_seed(self.options.seed + 1_000_003 * self.course.epoch)
        order = torch.randperm(len(self.lessons), generator=generator).tolist()
        size, phase = self.options.batch_size, self.phase
        batches = [[self.lessons[i] for i in order[start : start + size]] for start in range(0, len(order), size)]
        gathered: list[float] = []
        for number, batch in enumerate(batches, 1):
            loss = self.loss(phase, batch, generator)
            self.accelerator.backward(loss)
            gathered.append(float(loss.detach()))
            # An epoch leaves no gradients to the next one.
            if number % self.options.gradient_accumulation == 0 or number == len(batches):
                self.accelerator.clip_grad_norm_(self.bridge.parameters(), 1.0)
                self._optimizer.step()
                self._optimizer.zero_grad()
                self.course.losses.append((phase, sum(gathered) / len(gathered)))
                gathered = []
            yield float(loss.detach())
        self.course.epoch += 1
        self.course.validation.append(self.validate())

    def loss(self, phase: Phase, batch: Sequence[Lesson], generator: torch.Generator) -> Tensor:
        """[]: of one batch."""
        fused = [self.bridge(item.references.visual.tokens, item.levels)[0] for item in batch]
        if phase == "distill":
            pairs = zip(fused, batch, strict=True)
            return torch.stack([distillation_loss(tokens, item.sharp) for tokens, item in pairs]).mean()
        return self._flow(batch, fused, generator)

    def _flow(self, batch: Sequence[Lesson], fused: Sequence[Tensor], generator: torch.Generator) -> Tensor:
        """The velocity loss at one noise level for all: modulation is tabled per level."""
        width, height = self.editor.output_size(batch[0].references, None)
        sigmas = self.editor.sigmas(self.options.sigma_steps, width, height)[:-1]
        sigma = sigmas[int(torch.randint(len(sigmas), (), generator=generator))]
        noises = [torch.randn(item.target.shape, generator=generator).to(item.target) for item in batch]
        embeds = [self._read(item, tokens) for item, tokens in zip(batch, fused, strict=True)]
        groups: dict[tuple[Any, ...], list[int]] = {}
        for number, item in enumerate(batch):
            groups.setdefault((len(embeds[number]), *item.kind), []).append(number)
        total = torch.zeros((), device=self.editor.device)
        most = self.editor.max_batch
        for group in (whole[i : i + most] for whole in groups.values() for i in range(0, len(whole), most)):
            items = [batch[i] for i in group]
            target, noise = (torch.cat(parts) for parts in ([i.target for i in items], [noises[n] for n in group]))
            source = torch.cat([item.references.latents for item in items])
            references = replace(items[0].references, latents=source)
            conditioning = Conditioning(tuple(embeds[i] for i in group), None, references)
            size = self.editor.output_size(items[0].references, None)
            denoise = recomputing(self.editor, self.editor.denoiser(conditioning, *size))
            velocity = denoise((1 - sigma) * target + sigma * noise, sigma).velocity
            total = total + edit_flow_loss(velocity, source, target, noise) * len(group)
        return total / len(batch)

    def _read(self, item: Lesson, tokens: Tensor) -> Tensor:
        """[L, D]: the prompt beside bridged tokens, with gradients back to them."""
        editor, visual = self.editor, item.references.visual
        editor.residency.use(editor.text_encoder)
        bridged = VisualTokens(tokens, visual.grids, len(tokens))
        return encode_text(editor.text_encoder, editor.processor, item.prompt, bridged)[editor.prefix :]

    @torch.no_grad()
    def validate(self) -> dict[str, float]:
        """Both losses on the held-out lessons, with the same noise every time; no flow where none is trained."""
        found: dict[str, float] = {}
        phases: list[Phase] = ["distill", "flow"] if self.options.flow_epochs else ["distill"]
        size = self.options.batch_size
        parts = [self.held_out[start : start + size] for start in range(0, len(self.held_out), size)]
        for phase in phases:
            generator = torch.Generator().manual_seed(self.options.seed)
            total = sum(float(self.loss(phase, part, generator)) * len(part) for part in parts)
            found[phase] = total / len(self.held_out)
        return found

    def checkpoint(self, about: Mapping[str, Any]) -> Bridge:
        """What has been learnt, and, unless all epochs are done, what is needed to go on."""
        module = self.accelerator.unwrap_model(self.bridge)
        told = {**about, "epochs": self.course.epoch, "validation": self.course.validation[-1:]}
        return Bridge(module, told, {} if self.finished else state_of(self._optimizer, module))


def held_of(count: int, share: float) -> int:
    """How many of `count` triples only validate. Raises ValueError where none is left to train on."""
    held = max(1, round(count * share))
    if held >= count:
        raise ValueError(f"{count} triples are too few: {held} are kept for validation")
    return held


def state_of(optimizer: Any, module: VisionBridge) -> dict[str, Tensor]:
    """AdamW's moments and step of every parameter, by the parameter's name."""
    inner = getattr(optimizer, "optimizer", optimizer)
    return {
        f"{key}.{name}": value.detach()
        for name, parameter in module.named_parameters()
        for key, value in inner.state.get(parameter, {}).items()
    }


def restore(optimizer: torch.optim.Optimizer, module: VisionBridge, state: Mapping[str, Tensor]) -> None:
    """Put back what `state_of` has taken."""
    parameters = dict(module.named_parameters())
    for key, value in state.items():
        kind, _, name = key.partition(".")
        optimizer.state[parameters[name]][kind] = value.clone().to(parameters[name].device if value.ndim else "cpu")
