"""Injection: features of a photo as a residual on the embeddings of a prompt's slot tokens.

    photo -> features -> head -> residual r, one row per slot
    e + α · r̂ in the slots' places,    r̂ = r · rms(w ⊙ e) / rms(w ⊙ r)  per token

The transformer brings every text token to unit RMS and multiplies it by a gain w (`txt_norm`) before it reads it, so
that a token's length is lost: e + α · r is not linear in α, and without matched lengths α would mean something else
for every head. Matched, and where w ⊙ r stands at a right angle to w ⊙ e, α turns a token by arctan α after the norm:
45° at α = 1, and never more than a right angle, at which the prompt's own word is gone (`turned` has any angle).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional


@dataclass(frozen=True)
class HeadConfig:
    """What a head is made for, and its own size. Raises ValueError for a size below 1 or heads that share no rank.

    feature_width: D of the vision model. levels: feature levels per photo, the final tokens among them. text_width: H
    of the prompt's embeddings. slots: tokens that the residual stands on. rank: width in between.
    """

    feature_width: int
    levels: int
    text_width: int
    slots: int = 20
    rank: int = 128
    attention_heads: int = 4

    def __post_init__(self) -> None:
        for name, size in vars(self).items():
            if not isinstance(size, int) or size < 1:
                raise ValueError(f"{name} is {size!r} and must be a whole number from 1 on")
        if self.rank % self.attention_heads:
            raise ValueError(f"rank {self.rank} is no multiple of {self.attention_heads} attention heads")


class InjectionHead(nn.Module):
    """Features of one person's photos -> residual [slots, H].

    Every slot asks all visual tokens of all levels and photos by one attention of width `rank`; what it finds goes
    through a small MLP and up to H, with a bias per slot and one learnable scale. At Qwen's sizes (4096 -> 3584, 20
    slots, rank 128) these are 1.2 M parameters; a linear layer to all tokens of a prompt has 0.2 to 2.3 billion.
    """

    def __init__(self, config: HeadConfig) -> None:
        super().__init__()
        self.config = config
        rank = config.rank
        self.down = nn.Linear(config.feature_width, rank)
        self.level = nn.Parameter(torch.randn(config.levels, rank) * 0.02)
        self.query = nn.Parameter(torch.randn(config.slots, rank))
        self.key, self.value = nn.Linear(rank, rank), nn.Linear(rank, rank)
        self.norm = nn.LayerNorm(rank)
        self.mlp = nn.Sequential(nn.Linear(rank, 2 * rank), nn.GELU(), nn.Linear(2 * rank, rank))
        self.up = nn.Linear(rank, config.text_width, bias=False)
        self.bias = nn.Parameter(torch.zeros(config.slots, config.text_width))
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, features: Tensor) -> Tensor:
        """features: [..., levels, N, D], the tokens of all photos one after the other -> residuals [..., slots, H]."""
        tokens = self.down(unit(features)) + self.level[:, None]
        found = self._pooled(tokens.flatten(-3, -2))
        found = found + self.mlp(self.norm(found))
        residual: Tensor = self.scale * (self.up(found) + self.bias)
        return residual

    def _pooled(self, tokens: Tensor) -> Tensor:
        """[..., slots, rank] from [..., M, rank], each slot's own weighted mean of the values."""
        heads = (self.config.attention_heads, -1)
        asked = self.query.expand(*tokens.shape[:-2], -1, -1)
        query, key, value = (
            x.unflatten(-1, heads).transpose(-3, -2) for x in (asked, self.key(tokens), self.value(tokens))
        )
        return functional.scaled_dot_product_attention(query, key, value).transpose(-3, -2).flatten(-2)


def unit(features: Tensor) -> Tensor:
    """[..., D] of L2 norm √D per token, so that what a layer sees of it is of order one at any width."""
    return functional.normalize(features, dim=-1) * math.sqrt(features.shape[-1])


def combined(photos: Sequence[Tensor]) -> Tensor:
    """Features [levels, N_i, D] of several photos of one person -> [levels, ΣN_i, D]: the head asks all of them."""
    return torch.cat(list(photos), dim=1)


# -- the residual in its place ------------------------------------------------------------------


def rms(x: Tensor) -> Tensor:
    """[..., D] -> [..., 1]: the root of the mean square."""
    return x.square().mean(dim=-1, keepdim=True).sqrt()


def matched(residual: Tensor, base: Tensor, gain: Tensor) -> Tensor:
    """r̂ [L, H]: `residual` with, per token, the length that `base` has once the norm's gain [H] is on both.

    A residual of no length stays what it is.
    """
    length = rms(gain * residual)
    return residual * (rms(gain * base) / torch.where(length > 0, length, 1.0))


def inject(embeds: Tensor, residual: Tensor, places: Sequence[int], alpha: float, gain: Tensor) -> Tensor:
    """A prompt's embeddings [L, H] with α · r̂ on the tokens at `places`; α = 0 gives `embeds` itself, bit for bit.

    residual: [slots, H], one row per place. gain: [H], of the transformer's txt_norm. Computed in float32.
    """
    if len(places) != len(residual):
        raise ValueError(f"a residual of {len(residual)} slots for {len(places)} places")
    if alpha == 0:
        return embeds
    index = torch.tensor(places, device=embeds.device)
    base = embeds[index].float()
    moved = base + alpha * matched(residual.to(base), base, gain.to(base))
    return embeds.index_copy(0, index, moved.to(embeds.dtype))


def turned(alpha: float, cosine: float = 0.0) -> float:
    """Degrees by which a token turns after the norm, for w ⊙ r at an angle of that cosine to w ⊙ e."""
    sine = math.sqrt(max(0.0, 1 - cosine**2))
    return math.degrees(math.atan2(alpha * sine, 1 + alpha * cosine))


def own_alpha(residual: Tensor, base: Tensor, gain: Tensor) -> float:
    """The α at which e + α · r̂ is, on average, the e + r that the head was trained for."""
    return float((rms(gain * residual) / rms(gain * base)).mean())


def random_residual(slots: int, width: int, seed: int) -> Tensor:
    """[slots, width]: a direction that means nothing, as a control."""
    return torch.randn(slots, width, generator=torch.Generator().manual_seed(seed))


# -- objectives ---------------------------------------------------------------------------------


def target_of(caption: Tensor, slots: int) -> Tensor:
    """A caption's embeddings [M, H] as [slots, H]: means of neighbouring tokens, or tokens repeated where M < slots.

    Repeated ones stay whole: a slot between two tokens that held their mean would name neither.
    """
    count = len(caption)
    if count <= slots:
        return caption[torch.arange(slots, device=caption.device) * count // slots]
    return functional.adaptive_avg_pool1d(caption.T[None], slots)[0].T


@dataclass(frozen=True)
class CaptionWeights:
    """Shares of the objective's three parts."""

    cosine: float = 0.7
    mse: float = 0.3
    rms: float = 0.05


def caption_loss(
    base: Tensor, residual: Tensor, target: Tensor, gain: Tensor, weights: CaptionWeights | None = None
) -> Tensor:
    """How far e + r is from the caption's tokens, [..., slots, H] each, as the transformer reads both.

    1 − cosine, mean squared difference and squared difference of lengths, all with the gain on, so that directions
    which the transformer mutes do not count, and in units of the target's length.
    """
    weights = weights or CaptionWeights()
    length = rms(gain * target)
    reached, wanted = gain * (base + residual) / length, gain * target / length
    cosine = 1 - functional.cosine_similarity(reached, wanted, dim=-1)
    mse = (reached - wanted).square().mean(dim=-1)
    lengths = (rms(reached) - 1).square().squeeze(-1)
    return (weights.cosine * cosine + weights.mse * mse + weights.rms * lengths).mean()


def flow_loss(velocity: Tensor, x0: Tensor, noise: Tensor) -> Tensor:
    """Mean squared error of the velocity [B, N, C] that the frozen transformer predicts, against noise − x0."""
    return (velocity.float() - (noise - x0).float()).square().mean()


def zero_loss(base: Tensor, residual: Tensor) -> Tensor:
    """The published original's objective: towards no residual at all. Only as the baseline it is."""
    cosine = 1 - functional.cosine_similarity(base + residual, base, dim=-1)
    return residual.square().mean() + cosine.mean()
