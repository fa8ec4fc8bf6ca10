"""Walks through a batch of pairs, from noise to its end, as sampling takes them."""

from collections.abc import Callable, Sequence
from functools import cached_property
from itertools import pairwise

import torch
from diffusers import QwenImageTransformer2DModel as Transformer
from torch import Tensor
from transformers import Qwen2_5_VLForConditionalGeneration as TextEncoder

from darkroom.pocket.stages.flow_stage import Lesson, Velocity
from darkroom.pocket.stages.lean_transformer import rotary, velocity
from darkroom.pocket.stages.prompts import embed, positions

Walk = Callable[[Tensor, float | Tensor], Tensor]
"""(x [B, N, 64], sigma, one or [B]) -> velocity [B, N, 64]."""


class Batch:
    """Pairs whose prompts have one length, read once for all walks through them.

    chosen: their numbers in the lesson. ids: [B, L], what is asked in the place of their own prompts. find: how
    velocities are computed, `velocity` itself or compiled.
    """

    def __init__(
        self,
        text_encoder: TextEncoder,
        lesson: Lesson,
        chosen: Tensor,
        ids: Tensor | None = None,
        find: Velocity = velocity,
    ) -> None:
        self._encoder, self._lesson, self._find = text_encoder, lesson, find
        pairs, self.device = lesson.pairs, text_encoder.device
        self.drawn = not pairs.references
        """Whether these are pictures from words alone."""
        self.target, self._reference, self._seen, changed = (
            part[chosen].to(self.device).float() for part in (pairs.target, pairs.source, pairs.seen, pairs.changed)
        )
        self.changed = changed > 0
        self._grids, self._seen_grids = [pairs.grid] * (1 + pairs.references), pairs.seen_grids
        self._asked = self._read(torch.tensor([pairs.prompts[int(row)] for row in chosen]) if ids is None else ids)

    @torch.no_grad()
    def _read(self, ids: Tensor) -> Tensor:
        """Words [B, L, D]."""
        places = positions(self._encoder, ids[0], self._seen_grids).to(self.device)
        with torch.autocast(self.device.type, torch.bfloat16):
            return embed(self._encoder, ids.to(self.device), self._seen, places)

    @cached_property
    def _silent(self) -> Tensor:
        return self._read(torch.tensor(self._lesson.blank).expand(len(self.target), -1))

    def noise(self, seed: int) -> Tensor:
        """Where its walks begin; drawn on the CPU, the same on every device."""
        return torch.randn(self.target.shape, generator=torch.Generator().manual_seed(seed)).to(self.device)

    def walk(self, model: Transformer, earlier_form: bool = False) -> Walk:
        """The velocity that `model` sees, as it is; in 2511's form, which modulates references as clean, or 2509's."""
        return self._walk(model, self._asked, earlier_form)

    def silent_walk(self, model: Transformer) -> Walk:
        """The same where nothing is asked for: what true CFG steers away from."""
        return self._walk(model, self._silent, earlier_form=False)

    def _walk(self, model: Transformer, words: Tensor, earlier_form: bool) -> Walk:
        turns = rotary(model, self._grids, words.shape[1])

        def found(x: Tensor, sigma: float | Tensor) -> Tensor:
            noisy = torch.as_tensor(sigma, device=self.device, dtype=torch.float32).expand(len(x))
            sigmas = torch.stack([noisy, noisy if earlier_form else torch.zeros_like(noisy)])
            with torch.autocast(self.device.type, torch.bfloat16):
                return self._find(model, x, self._reference, words, sigmas, turns)[0].float()

        return found


@torch.no_grad()
def euler(walk: Walk, x: Tensor, levels: Sequence[float]) -> Tensor:
    """Where Euler steps along `levels` end."""
    for sigma, sigma_next in pairwise(levels):
        x = x + (sigma_next - sigma) * walk(x, sigma)
    return x
