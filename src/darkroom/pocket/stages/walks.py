"""A batch of pairs: read once, then seen at any noise level, or walked through from noise as sampling does."""

from collections.abc import Callable, Sequence
from functools import cached_property
from itertools import pairwise

import torch
from diffusers import QwenImageTransformer2DModel as Transformer
from torch import Tensor
from transformers import Qwen2_5_VLForConditionalGeneration as TextEncoder

from darkroom.pocket.stages.fast_numbers import autocast
from darkroom.pocket.stages.lean_transformer import Velocity, rotary, velocity
from darkroom.pocket.stages.lesson import Lesson
from darkroom.pocket.stages.prompts import embed, positions

Look = Callable[[Tensor, float | Tensor], tuple[Tensor, list[Tensor]]]
"""(x [B, N, 64], sigma, one or [B]) -> velocity [B, N, 64] in float32, hidden states after each block."""
Walk = Callable[[Tensor, float | Tensor], Tensor]
"""The same without hidden states."""


class Batch:
    """Pairs whose prompts have one length, on the text encoder's device; their words are read once.

    chosen: their numbers in the lesson. ids: [B, L], what is asked. find: how velocities are computed, `velocity`
    itself or compiled. Where the text encoder asks for gradients, they reach it through the words.
    """

    def __init__(
        self, text_encoder: TextEncoder, lesson: Lesson, chosen: Tensor, ids: Tensor, find: Velocity = velocity
    ) -> None:
        self._encoder, self._lesson, self._find = text_encoder, lesson, find
        pairs, self.device = lesson.pairs, text_encoder.device
        self.drawn = not pairs.references
        """Whether these are pictures from words alone."""
        self.target, self._reference, self._seen, self.changed_shares = (
            part[chosen].to(self.device).float() for part in (pairs.target, pairs.source, pairs.seen, pairs.changed)
        )
        """[B, N]: of each cell's pixels, those that the edit changes."""
        self.changed = self.changed_shares > 0
        self._chosen = chosen
        self._grids, self._seen_grids = [pairs.grid] * (1 + pairs.references), pairs.seen_grids
        self._asked = self._read(ids)

    def _read(self, ids: Tensor) -> Tensor:
        """Words [B, L, D]."""
        places = positions(self._encoder, ids[0], self._seen_grids).to(self.device)
        with autocast(self.device):
            return embed(self._encoder, ids.to(self.device), self._seen, places)

    @cached_property
    def _silent(self) -> Tensor:
        return self._read(torch.tensor(self._lesson.blank).expand(len(self.target), -1))

    @property
    def named(self) -> Tensor:
        """[B, M]: what the cells of the references show."""
        return self._lesson.pairs.named[self._chosen].to(self.device)

    @property
    def written(self) -> Tensor:
        """[B, N]: the letters that the cells of the target show."""
        return self._lesson.pairs.written[self._chosen].to(self.device)

    @property
    def heard(self) -> Tensor:
        """[B, questions]: what the words name (`named_words`)."""
        return self._lesson.heard[self._chosen].to(self.device)

    def noise(self, generator: torch.Generator) -> Tensor:
        """[B, N, 64]; drawn on the CPU, the same on every device."""
        return torch.randn(self.target.shape, generator=generator).to(self.device)

    def look(self, model: Transformer, earlier_form: bool = False) -> Look:
        """What `model` sees, as it is; in 2511's form, which modulates references as clean, or 2509's."""
        return self._look(model, self._asked, earlier_form)

    def walk(self, model: Transformer, earlier_form: bool = False) -> Walk:
        """The same, the velocity alone."""
        look = self.look(model, earlier_form)
        return lambda x, sigma: look(x, sigma)[0]

    def silent_walk(self, model: Transformer) -> Walk:
        """The velocity where nothing is asked for: what true CFG steers away from."""
        look = self._look(model, self._silent, earlier_form=False)
        return lambda x, sigma: look(x, sigma)[0]

    def _look(self, model: Transformer, words: Tensor, earlier_form: bool) -> Look:
        turns = rotary(model, self._grids, words.shape[1])

        def found(x: Tensor, sigma: float | Tensor) -> tuple[Tensor, list[Tensor]]:
            noisy = torch.as_tensor(sigma, device=self.device, dtype=torch.float32).expand(len(x))
            sigmas = torch.stack([noisy, noisy if earlier_form else torch.zeros_like(noisy)])
            with autocast(self.device):
                out, hidden = self._find(model, x, self._reference, words, sigmas, turns)
            return out.float(), hidden

        return found


@torch.no_grad()
def euler(walk: Walk, x: Tensor, levels: Sequence[float]) -> Tensor:
    """Where Euler steps along `levels` end."""
    for sigma, sigma_next in pairwise(levels):
        x = x + (sigma_next - sigma) * walk(x, sigma)
    return x
