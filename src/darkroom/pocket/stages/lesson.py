"""What a step of training takes from a set of pairs: rows whose prompts have one length, so that nothing is padded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor
from transformers import Qwen2Tokenizer

from darkroom.pocket.stages.named_words import QUESTIONS, UNNAMED, named_words
from darkroom.pocket.stages.pairs import Pairs, prompt_ids
from darkroom.pocket.stages.prompts import unseen_prefix


class Lesson:
    """Pairs, which of them to learn from, by length of prompt, and the prompt that says nothing.

    heard: [N, questions], of every pair what its words name (`named_words`). rows: the numbers of those to learn from,
    which may come more than once; all without it.
    """

    def __init__(self, pairs: Pairs, blank: list[int], heard: Tensor, rows: Sequence[int] | None = None) -> None:
        self.pairs, self.blank, self.heard = pairs, blank, heard
        self.rows = list(range(len(pairs)) if rows is None else rows)
        self._rows = torch.tensor(self.rows, dtype=torch.long)
        lengths = torch.tensor([len(pairs.prompts[row]) for row in self.rows])
        self._by_length = [self._rows[lengths == length] for length in lengths.unique()]

    @classmethod
    def of(cls, pairs: Pairs, tokenizer: Qwen2Tokenizer, times: Mapping[str, int] | None = None) -> Lesson:
        """Each pair as many times as `times` says of its kind: 0 leaves a kind out, kinds not named stay once."""
        shown = {} if times is None else times
        rows = [row for row, kind in enumerate(pairs.kinds) for _ in range(shown.get(kind, 1))]
        blank = prompt_ids(tokenizer, " ", pairs.seen_grids)
        told = tokenizer.batch_decode([prompt[unseen_prefix(pairs.references > 0) :] for prompt in pairs.prompts])
        return cls(pairs, blank, torch.stack([named_words(words) for words in told]), rows)

    def part(self, rows: Sequence[int]) -> Lesson:
        """The same pairs, these rows of them."""
        return Lesson(self.pairs, self.blank, self.heard, rows)

    @property
    def naming_shapes(self) -> list[bool]:
        """Of every pair, whether it has a reference and its words name a shape."""
        named: list[bool] = (self.heard[:, QUESTIONS.index("shape")] != UNNAMED).tolist()
        return [name and self.pairs.references > 0 for name in named]

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def kinds(self) -> set[str]:
        """Of what is learned from."""
        return {self.pairs.kinds[row] for row in self.rows}

    def choose(self, rng: np.random.Generator, count: int, blank: float) -> tuple[Tensor, Tensor]:
        """`count` row numbers and their token ids [count, L]; with probability `blank` the prompt says nothing."""
        if rng.random() < blank:
            chosen = self._rows[torch.from_numpy(rng.integers(len(self), size=count))]
            return chosen, torch.tensor(self.blank).expand(count, -1)
        chances = np.array([len(group) for group in self._by_length], dtype=np.float64)
        group = self._by_length[rng.choice(len(self._by_length), p=chances / chances.sum())]
        chosen = group[torch.from_numpy(rng.integers(len(group), size=count))]
        return chosen, self.asked(chosen)

    def asked(self, chosen: Tensor) -> Tensor:
        """[count, L]: the token ids of these rows' own prompts, which must have one length."""
        return torch.tensor([self.pairs.prompts[int(row)] for row in chosen])

    def size(self, batch: int) -> int:
        """How many of its pairs cost about what `batch` edits of one picture do: the more references, the fewer."""
        return max(1, 2 * batch // (1 + self.pairs.references))


def draw_lesson(rng: np.random.Generator, lessons: Sequence[Lesson]) -> Lesson:
    """One of `lessons`, each as often as it has rows."""
    chances = np.array([len(lesson) for lesson in lessons], dtype=np.float64)
    return lessons[rng.choice(len(lessons), p=chances / chances.sum())]
