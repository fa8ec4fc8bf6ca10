"""Bridges, as files and at work: what a bridge does to the visual tokens of pictures."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from darkroom.errors import Internal, InvalidInput
from darkroom.models.sight import VisualTokens
from darkroom.models.trained import Kind
from darkroom.models.vision import Grid, Sight
from darkroom.models.weights import module_digest, weights_digest
from darkroom.technique.bridge import BridgeConfig, VisionBridge

BRIDGE = Kind("vision_bridge", "a bridge", lambda form: VisionBridge(BridgeConfig(**form)))


MADE_FOR = "made_for"
"""In a bridge's `about`: what it was trained between, as `made_between` has it."""
BETWEEN = {"tower": "vision tower of the text encoder", "vision": "vision model"}
"""What a bridge stands between, and what people call it."""


@dataclass(frozen=True)
class Bridge:
    """A bridge to be used. about: JSON values on its training (steps, models, losses); empty for one untrained.

    training: in a checkpoint to go on from, the training's own tensors.
    """

    module: VisionBridge
    about: Mapping[str, Any] = field(default_factory=dict)
    training: Mapping[str, Tensor] = field(default_factory=dict)

    @property
    def config(self) -> BridgeConfig:
        """Its form."""
        return self.module.config

    @property
    def is_identity(self) -> bool:
        """Whether it leaves every token as it is, as an untrained one does."""
        return self.module.gate is not None and not bool(self.module.gate.any())

    def fits(self, baseline_dim: int, extractor_dim: int, levels: int) -> None:
        """Raise InvalidInput, naming both sides, for models of other dimensions."""
        config = self.config
        if (config.baseline_dim, config.extractor_dim, config.levels) != (baseline_dim, extractor_dim, levels):
            raise InvalidInput(
                f"bridge was made for {config.levels} levels of width {config.extractor_dim} and tokens of width "
                f"{config.baseline_dim}; these models have {levels} of {extractor_dim} and {baseline_dim}",
                field="bridge",
            )

    def strangers(self, weights: Mapping[str, str]) -> list[str]:
        """What of `made_between`'s it was not made for, in words; where one of both is not known, it is no stranger."""
        made_for = self.about.get(MADE_FOR)
        known = made_for if isinstance(made_for, Mapping) else {}
        both = [name for name in BETWEEN if name in weights and name in known]
        return [BETWEEN[name] for name in both if known[name] != weights[name]]


@dataclass(frozen=True)
class Bridged:
    """Visual tokens as the bridge has left them. attention: per picture [rows, columns, levels], or None (MLP)."""

    visual: VisualTokens
    attention: tuple[Tensor | None, ...]


def untrained(config: BridgeConfig, seed: int = 0) -> Bridge:
    """A bridge as it is before its first step; the same seed draws the same weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Bridge(VisionBridge(config).eval().requires_grad_(False))


def made_between(text_encoder: Path | None, vision: Path | None) -> dict[str, str]:
    """What a bridge between the models in these folders is made for: SHA-256 by the names of BETWEEN; None is unknown.

    Of the text encoder the tower alone, whose tokens a bridge replaces: its language model may learn on.
    """
    tower = {} if text_encoder is None else {"tower": module_digest(text_encoder, "visual")}
    return {**tower, **({} if vision is None else {"vision": weights_digest(vision)})}


def to_bytes(bridge: Bridge) -> bytes:
    """The file of a bridge."""
    return BRIDGE.to_bytes(bridge.module, bridge.config, bridge.about, bridge.training)


def from_bytes(data: bytes, name: str = "bridge") -> Bridge:
    """A bridge from the bytes of its file. Raises InvalidInput, which names `name`, for anything else."""
    module, about, training = BRIDGE.from_bytes(data, name)
    return Bridge(module.requires_grad_(False), about, training)


def digest(bridge: Bridge) -> str:
    """SHA-256 of form and weights; the same for equal bridges, whatever is told about them."""
    found = hashlib.sha256(repr(bridge.config).encode())
    for name, value in sorted(bridge.module.state_dict().items()):
        found.update(name.encode() + value.detach().to("cpu").contiguous().numpy().tobytes())
    return found.hexdigest()


@torch.no_grad()
def fuse(bridge: Bridge, visual: VisualTokens, sights: Sequence[Sight], merge: int) -> Bridged:
    """The visual tokens of all pictures with the bridge between; sights on other grids are interpolated.

    merge: patches of one merged cell, a side, in `visual.grids`. Raises InvalidInput where the bridge does not fit,
    and Internal unless every token of every picture has gone through it.
    """
    grids = merged_grids(visual, merge)
    if len(sights) != len(grids):
        raise Internal(f"{len(grids)} pictures have visual tokens and {len(sights)} have a sight to bridge")
    parts = visual.tokens.split([rows * columns for rows, columns in grids])
    module = bridge.module.to(visual.tokens.device)
    tokens, attention = [], []
    for part, sight, grid in zip(parts, sights, grids, strict=True):
        levels = [level.to(part.device) for level in sight.on(grid).levels]
        if not levels:
            raise InvalidInput("bridge needs levels of sight, and this vision model gives none", field="bridge")
        bridge.fits(part.shape[-1], levels[0].shape[-1], len(levels))
        fused, weights = module(part, levels)
        tokens.append(fused)
        attention.append(None if weights is None else weights.unflatten(0, grid))
    together = torch.cat(tokens)
    if together.shape != visual.tokens.shape or not bool(together.isfinite().all()):
        raise Internal("the bridge did not give one finite token for each visual token")
    return Bridged(replace(visual, tokens=together, bridged=len(together)), tuple(attention))


def merged_grids(visual: VisualTokens, merge: int) -> list[Grid]:
    """(rows, columns) of each picture's visual tokens."""
    return [(height // merge, width // merge) for _, height, width in visual.grids.tolist()]
