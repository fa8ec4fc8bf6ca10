"""What training reads off the cells' hidden states, to say sooner than the velocity does what blocks must know.

All of it teaches, and is thrown away.
"""

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional

from darkroom.pocket.stages.named_words import ANSWERS, UNNAMED
from darkroom.pocket.stages.pairs import UNKNOWN
from darkroom.pocket.stages.truth import NO_LETTER, NO_SHAPE
from darkroom.pocket.stages.walks import Batch

# After which block the cells must know what shape they show and what the words name, after which whether the edit
# changes them and what letter they will show.
_NAMED_AFTER = 2
_HEARD_AFTER = 2
_POINTED_AFTER = 3
_SPELLED_AFTER = 3


class ReadingWeights(Protocol):
    """How much each reading's loss counts beside the velocity's."""

    @property
    def naming(self) -> float: ...
    @property
    def hearing(self) -> float: ...
    @property
    def pointing(self) -> float: ...
    @property
    def spelling(self) -> float: ...


class Pointer(nn.Module):
    """Reads off a cell's hidden state whether the edit changes it; teaches, and is thrown away.

    One reading for noisy cells, one for those of the first reference.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width, elementwise_affine=False)
        self.readings = nn.ParameterList([nn.Parameter(torch.zeros(width + 1)) for _ in range(2)])

    def forward(self, cells: Tensor, count: int) -> Tensor:
        """Logits [B, 2, count] from hidden states [B, at least 2 · count, width]."""
        parts = self.norm(cells[:, : 2 * count].float()).unflatten(1, (2, count))
        logits = [parts[:, i] @ reading[:-1] + reading[-1] for i, reading in enumerate(self.readings)]
        return torch.stack(logits, dim=1)


class Namer(nn.Module):
    """Reads off a cell's hidden state one of so many `answers`: what it shows, for instance; teaches, and is thrown
    away."""

    def __init__(self, width: int, answers: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width, elementwise_affine=False)
        self.reading = nn.Linear(width, answers)
        nn.init.zeros_(self.reading.weight)
        nn.init.zeros_(self.reading.bias)

    def forward(self, cells: Tensor) -> Tensor:
        """Logits [B, M, answers] from hidden states [B, M, width]."""
        logits: Tensor = self.reading(self.norm(cells.float()))
        return logits


class Hearer(nn.Module):
    """Reads off a cell's hidden state what the instruction's words name (`ANSWERS`); teaches, and is thrown away."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.answers = nn.ModuleList([Namer(width, len(names)) for names in ANSWERS.values()])

    def forward(self, cells: Tensor) -> list[Tensor]:
        """For every question logits [B, M, answers] from hidden states [B, M, width]."""
        return [answer(cells) for answer in self.answers]


class Readings(nn.Module):
    """All that is read, and its loss."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.pointer, self.hearer = Pointer(width), Hearer(width)
        self.namer, self.speller = Namer(width, NO_SHAPE + 1), Namer(width, NO_LETTER + 1)

    def loss(self, hidden: Sequence[Tensor], batch: Batch, asked: bool, weights: ReadingWeights) -> Tensor:
        """What the cells' `hidden` states [B, N + M, width] after each block do not say yet.

        Where nothing is `asked`, only what is named.
        """
        cells = batch.target.shape[1]
        loss = weights.naming * naming_loss(self.namer(hidden[_NAMED_AFTER - 1][:, cells:]), batch.named, NO_SHAPE)
        if not asked:
            return loss
        loss = loss + weights.hearing * hearing_loss(self.hearer(hidden[_HEARD_AFTER - 1]), batch.heard)
        pointed = self.pointer(hidden[_POINTED_AFTER - 1], cells)
        wanted = batch.changed_shares[:, None].expand_as(pointed)
        loss = loss + weights.pointing * functional.binary_cross_entropy_with_logits(pointed, wanted)
        spelled = self.speller(hidden[_SPELLED_AFTER - 1][:, :cells])
        return loss + weights.spelling * naming_loss(spelled, batch.written, NO_LETTER)


def naming_loss(logits: Tensor, named: Tensor, nothing: int) -> Tensor:
    """Half of it belongs to cells that show something, half to those that show `nothing`, however many there are of
    either; 0 where nobody knows of any."""
    losses = functional.cross_entropy(logits.mT, named.long(), ignore_index=UNKNOWN, reduction="none")
    parts = ((named >= 0) & (named < nothing), named == nothing)
    return sum(((losses * part).sum() / part.sum().clamp(min=1) for part in parts), torch.zeros(())) / 2


def hearing_loss(answers: Sequence[Tensor], heard: Tensor) -> Tensor:
    """The sum of all questions' cross-entropies, each averaged over the cells of the edits whose words have an answer.

    answers: logits [B, M, answers] for each question. heard: [B, questions].
    """
    total = torch.zeros((), device=heard.device)
    for logits, right in zip(answers, heard.T, strict=True):
        cells = right[:, None].expand(-1, logits.shape[1])
        losses = functional.cross_entropy(logits.mT, cells, ignore_index=UNNAMED, reduction="sum")
        total = total + losses / (cells != UNNAMED).sum().clamp(min=1)
    return total
