"""The shipped bridge: it learns what Qwen2.5-VL would say of large dots, from what Qwen3-VL sees of small ones.

`bridge_train`'s first phase on freshly drawn triples, without the latents that this phase does not need: half of the
pictures hold a dot that decides the edit, of the other half the bridge must leave the tokens as they are.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from pydantic import NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt
from torch import Tensor

from darkroom.models.bridge import MADE_FOR, Bridge, to_bytes, untrained
from darkroom.models.bridge_training import GATE_LR
from darkroom.models.editor import Editor
from darkroom.models.enhanced import sight_grid
from darkroom.models.vision import VisionExtractor
from darkroom.pocket.stages.checkpoint import keep, load_checkpoint, resume, save_checkpoint
from darkroom.pocket.stages.course import Course
from darkroom.pocket.triples import draw_triples
from darkroom.technique.bridge import BridgeConfig, VisionBridge, distillation_loss

# Pictures between two savings of what was seen of them: all are written each time.
_SAVED_EVERY = 1000


@dataclass(frozen=True)
class BridgeRecipe:
    """The defaults are those of the shipped bridge. held_out: triples, the last ones, that only validate."""

    triples: PositiveInt = 6000
    held_out: PositiveInt = 600
    epochs: PositiveInt = 40
    batch: PositiveInt = 32
    lr: PositiveFloat = 1e-3
    weight_decay: NonNegativeFloat = 0.05
    rank: PositiveInt = 96
    seed: NonNegativeInt = 0


@dataclass(frozen=True)
class Seen:
    """N pictures: baseline tokens and aims [N, cells, D], and each of the other model's levels [N, cells, E]."""

    baseline: Tensor
    levels: tuple[Tensor, ...]
    aim: Tensor

    def rows(self, chosen: Tensor | slice) -> "Seen":
        """Some of the pictures."""
        return Seen(self.baseline[chosen], tuple(level[chosen] for level in self.levels), self.aim[chosen])


def train_bridge(
    editor: Editor, eyes: VisionExtractor, recipe: BridgeRecipe, checkpoint: Path, course: Course
) -> tuple[Bridge, list[float]]:
    """The trained bridge and the loss on the held-out triples before training and after every epoch.

    Goes on from `checkpoint` where it exists, which must be of the same two models. Computes on the CPU.
    """
    looked = checkpoint.with_name(f"{checkpoint.stem}_seen.pt")
    seen = look_at(editor, eyes, recipe, looked, course)
    config = BridgeConfig(seen.baseline.shape[-1], eyes.hidden_size, eyes.levels, recipe.rank)
    bridge = untrained(config, recipe.seed).module.float().requires_grad_(True)
    learned = seen.rows(slice(0, recipe.triples - recipe.held_out))
    held_out = seen.rows(slice(recipe.triples - recipe.held_out, None))
    trained = dict(bridge.named_parameters())
    rest = [parameter for name, parameter in trained.items() if name != "gate"]
    groups: list[dict[str, Any]] = [
        {"params": rest},
        {"params": [trained["gate"]], "lr": GATE_LR * recipe.lr, "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, recipe.lr, weight_decay=recipe.weight_decay)
    told = [_validated(bridge, held_out)]
    first = resume(checkpoint, trained, [optimizer])
    if first:
        told = (load_checkpoint(checkpoint) or {})["told"]

    def kept(done: int) -> None:
        keep(checkpoint, done, trained, [optimizer], told=told)

    for epoch in course.steps("bridge", first, recipe.epochs, kept, every=1):
        generator = torch.Generator().manual_seed(recipe.seed + 1_000_003 * epoch)
        for chosen in torch.randperm(len(learned.aim), generator=generator).split(recipe.batch):
            part = learned.rows(chosen)
            loss = distillation_loss(bridge(part.baseline, part.levels)[0], part.aim)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(bridge.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
        told.append(_validated(bridge, held_out))
        if (epoch + 1) % 5 == 0:
            course.report(f"bridge {epoch + 1}/{recipe.epochs}: held-out loss {told[-1]:.4f}, {told[0]:.4f} without it")
    looked.unlink(missing_ok=True)
    about = {"model": "pocket edit", "extractor": "pocket qwen3vl", "triples": recipe.triples, "validation": told[-1]}
    return Bridge(bridge.requires_grad_(False), about), told


@torch.no_grad()
def look_at(editor: Editor, eyes: VisionExtractor, recipe: BridgeRecipe, kept: Path, course: Course) -> Seen:
    """What both models see of every triple, and what the editor's own sees of the large mark; remembered in `kept`."""
    image_processor = editor.processor.image_processor
    own = VisionExtractor(editor.text_encoder.model, image_processor, editor.processor.tokenizer)
    state = load_checkpoint(kept) or {"baseline": [], "levels": [], "aims": []}
    baseline, levels, aims = (list(state[name]) for name in ("baseline", "levels", "aims"))

    def keep_seen(done: int) -> None:
        save_checkpoint(kept, {"baseline": baseline, "levels": levels, "aims": aims})

    first = len(aims)
    triples = islice(draw_triples(recipe.triples, recipe.seed), first, None)
    steps = course.steps("bridge looks", first, recipe.triples, keep_seen, every=_SAVED_EVERY)
    for _, (_, _, pictures) in zip(steps, triples, strict=False):
        seen = pictures.get("sight", pictures["source"])
        grid = sight_grid(seen.size, editor.areas, image_processor)
        baseline.append(editor.look([seen]).tokens)
        levels.append(eyes.look(seen, grid=grid).levels)
        aims.append(own.look(pictures["sharp"], grid=grid).final)
    return Seen(torch.stack(baseline), tuple(map(torch.stack, zip(*levels, strict=True))), torch.stack(aims))


def save_bridge(bridge: Bridge, path: Path, made_for: Mapping[str, str]) -> None:
    """As `bridge_train` stores it. made_for: as `models.bridge.made_between` has it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(to_bytes(replace(bridge, about={**bridge.about, MADE_FOR: dict(made_for)})))


@torch.no_grad()
def _validated(bridge: VisionBridge, kept: Seen) -> float:
    return float(distillation_loss(bridge(kept.baseline, kept.levels)[0], kept.aim))
