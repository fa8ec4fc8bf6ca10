"""How flow matching on edits is weighed: which noise levels it meets, and which cells count how much."""

from typing import Protocol

import torch
from torch import Tensor


class Weighing(Protocol):
    """changed_share: of the loss, what belongs to the cells that an edit changes, however few they are.

    full_weight_sigma: below it the loss is that of the clean latents, which sampling's small last steps call for.
    outline: how many times as much as others a cell counts through which the outline of the change goes.
    """

    @property
    def changed_share(self) -> float: ...
    @property
    def full_weight_sigma(self) -> float: ...
    @property
    def outline(self) -> float: ...


def noise_levels(count: int, shift: float, blind_from: float, generator: torch.Generator) -> Tensor:
    """[count] sigmas in (0, 1), in random order: half spread over the shifted schedule, half over (blind_from, 1)."""
    parts = (torch.arange(count) + torch.rand(count, generator=generator)) / count
    scheduled, blind = parts[::2], parts[1::2]
    sigmas = torch.cat([shift * scheduled / (1 + (shift - 1) * scheduled), blind_from + (1 - blind_from) * blind])
    return sigmas[torch.randperm(count, generator=generator)]


def flow_loss(errors: Tensor, shares: Tensor, sigma: Tensor, weighing: Weighing) -> Tensor:
    """Squared errors [B, N] of the cells' velocities, averaged per edit over the cells that it changes and over its
    others, then over the batch.

    shares: [B, N], of each cell's pixels those that the edit changes, 0 to 1. sigma: [B].
    """
    changed = shares > 0
    counts = torch.where(changed & (shares < 1), weighing.outline, 1.0)
    parts = []
    for part, share in ((counts * changed, weighing.changed_share), ((~changed).float(), 1 - weighing.changed_share)):
        parts.append(share * (errors * part).sum(dim=1) / part.sum(dim=1).clamp(min=1))
    # Edits of the whole picture have no other cells.
    whole = torch.where(changed.all(dim=1), 1 / weighing.changed_share, 1.0)
    weights = (sigma / weighing.full_weight_sigma).clamp(max=1).square()
    return ((parts[0] * whole + parts[1]) * weights).mean()
