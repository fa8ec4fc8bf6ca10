"""The vision bridge: one model's levels of sight, projected, weighed and added to another model's visual tokens.

Tokens are rows [..., N, D], one per merged cell, both models on the same grid. After DeepStack (arXiv 2406.04334) for
the levels, adapters (arXiv 1902.00751) for the projections and ReZero (arXiv 2003.04887) for the gate.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

FUSIONS = ("attention", "mlp")


@dataclass(frozen=True)
class BridgeConfig:
    """The form of a bridge; everything that its weights depend on. Raises ValueError for what makes no bridge.

    baseline_dim: width of the tokens that are changed. extractor_dim: width of each level of the other model.
    rank: width between a level's two projections. fusion: attention weighs the levels cell by cell, with the baseline's
    token as the query; mlp mixes them by a layer over all of them. use_residual: what the bridge says is added to the
    baseline through a gate that starts at zero; without it, it takes the baseline's place. shared_up: one projection
    back for all levels. key_dim: width of queries and keys.
    """

    baseline_dim: int
    extractor_dim: int
    levels: int = 3
    rank: int = 224
    fusion: Literal["attention", "mlp"] = "attention"
    use_residual: bool = True
    shared_up: bool = False
    key_dim: int = 16

    def __post_init__(self) -> None:
        if self.fusion not in FUSIONS:
            raise ValueError(f"fusion must be one of {', '.join(FUSIONS)}, got {self.fusion!r}")
        for name in ("baseline_dim", "extractor_dim", "levels", "rank", "key_dim"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")


class VisionBridge(nn.Module):
    """Fused tokens from baseline tokens and the levels of another model's sight; as made, the baseline's own.

    Computes in the type of its weights; the fused tokens have the baseline's type.
    """

    def __init__(self, config: BridgeConfig) -> None:
        super().__init__()
        self.config = config
        width, inner, count = config.extractor_dim, config.rank, config.levels
        self.norms = nn.ModuleList(nn.LayerNorm(width, bias=False) for _ in range(count))
        self.down = nn.ModuleList(nn.Linear(width, inner) for _ in range(count))
        self.fusion: Fusion = (AttentionFusion if config.fusion == "attention" else MlpFusion)(config)
        self.gate = nn.Parameter(torch.zeros(config.baseline_dim)) if config.use_residual else None

    def forward(self, baseline: Tensor, levels: Sequence[Tensor]) -> tuple[Tensor, Tensor | None]:
        """(fused [..., N, baseline_dim], weights of the levels [..., N, levels]; None where fusion is mlp).

        baseline: [..., N, baseline_dim]. levels: [..., N, extractor_dim] each, early to late. The weights of a cell
        sum to 1. Raises ValueError, naming both, where counts or widths differ from the bridge's.
        """
        self._check(baseline, levels)
        dtype = next(self.parameters()).dtype
        tokens = baseline.to(dtype)
        inner = [
            functional.gelu(down(norm(level.to(dtype))))
            for norm, down, level in zip(self.norms, self.down, levels, strict=True)
        ]
        said, weights = self.fusion(tokens, torch.stack(inner, dim=-2))
        # What is said comes out at a size of about 1, so that the gate counts in sizes of the baseline.
        said = said * rms(tokens)
        fused = said if self.gate is None else tokens + self.gate * said
        return fused.to(baseline.dtype), weights

    def _check(self, baseline: Tensor, levels: Sequence[Tensor]) -> None:
        config = self.config
        if baseline.shape[-1] != config.baseline_dim:
            raise ValueError(f"the bridge leads to width {config.baseline_dim}, the tokens have {baseline.shape[-1]}")
        if len(levels) != config.levels:
            raise ValueError(f"the bridge takes {config.levels} levels, the vision model gives {len(levels)}")
        for level in levels:
            if level.shape[-1] != config.extractor_dim:
                raise ValueError(f"the bridge takes levels of width {config.extractor_dim}, not {level.shape[-1]}")
            if level.shape[:-1] != baseline.shape[:-1]:
                places = tuple(level.shape[:-1]), tuple(baseline.shape[:-1])
                raise ValueError(f"a level has {places[0]} cells and the baseline {places[1]}; bring them to one grid")


class Fusion(nn.Module):
    """(baseline [..., N, D], inner [..., N, levels, rank]) -> (said [..., N, D], weights or None)."""


class AttentionFusion(Fusion):
    """Each cell weighs the levels by softmax(q · k / √key_dim) and sums their projections back."""

    def __init__(self, config: BridgeConfig) -> None:
        super().__init__()
        self.scale = config.key_dim**-0.5
        self.norm = nn.LayerNorm(config.baseline_dim, bias=False)
        self.query = nn.Linear(config.baseline_dim, config.key_dim, bias=False)
        self.keys = nn.Parameter(torch.randn(config.levels, config.rank, config.key_dim) * config.rank**-0.5)
        count = 1 if config.shared_up else config.levels
        self.up = nn.Parameter(torch.randn(count, config.rank, config.baseline_dim) * (config.rank / 3) ** -0.5)

    def forward(self, baseline: Tensor, inner: Tensor) -> tuple[Tensor, Tensor]:
        query = self.query(self.norm(baseline))
        keys = torch.einsum("...lr,lrk->...lk", inner, self.keys)
        weights = (torch.einsum("...k,...lk->...l", query, keys) * self.scale).softmax(dim=-1)
        weighed = inner * weights.unsqueeze(-1)
        if len(self.up) == 1:
            return weighed.sum(dim=-2) @ self.up[0], weights
        return weighed.flatten(-2) @ self.up.flatten(0, 1), weights


class MlpFusion(Fusion):
    """One layer over all levels side by side, then one projection back; no level has a weight of its own."""

    def __init__(self, config: BridgeConfig) -> None:
        super().__init__()
        self.mix = nn.Linear(config.levels * config.rank, config.rank)
        self.up = nn.Linear(config.rank, config.baseline_dim)

    def forward(self, baseline: Tensor, inner: Tensor) -> tuple[Tensor, None]:
        return self.up(functional.gelu(self.mix(inner.flatten(-2)))), None


def rms(tokens: Tensor) -> Tensor:
    """[..., 1, 1]: root of the mean square over all cells and channels of a picture [..., N, D]."""
    return tokens.square().mean(dim=(-2, -1), keepdim=True).sqrt()


def parameters_of(config: BridgeConfig) -> int:
    """How many parameters a bridge of this form has; nothing is allocated."""
    with torch.device("meta"):
        return sum(parameter.numel() for parameter in VisionBridge(config).parameters())


def distillation_loss(fused: Tensor, target: Tensor) -> Tensor:
    """[]: squared error relative to the target's own size, in float32; tokens [..., N, D].

    0 where the bridge says what the baseline model says of a sharper picture; the baseline's own tokens give what
    blur costs it.
    """
    target = target.float()
    return (fused.float() - target).square().mean() / target.square().mean()


def edit_flow_loss(velocity: Tensor, source: Tensor, target: Tensor, noise: Tensor) -> Tensor:
    """[]: squared error of a velocity [B, N, C] at the noisy `target`, half of it weighed by what the edit changes.

    source, target: clean latents [B, N, C] before and after; a source of another size weighs all cells alike.
    """
    error = (velocity.float() - (noise - target).float()).square().mean(dim=-1)
    if source.shape != target.shape:
        return error.mean()
    change = (target - source).float().abs().mean(dim=-1)
    # An edit that changes nothing has no cell that counts more.
    weight = change / change.mean(dim=-1, keepdim=True).clamp_min(torch.finfo(torch.float32).tiny)
    return (error * (1 + weight)).mean() / 2
