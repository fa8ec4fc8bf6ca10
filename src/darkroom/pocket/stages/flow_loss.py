"""How flow matching on edits is weighed: which noise levels it meets, and which cells count how much."""

from typing import Protocol

import torch
from torch import Tensor


class Weighing(Protocol):
    """changed_share: of the loss, what belongs to the cells that an edit changes, however few they are.

    full_weight_sigma: below it the loss is that of the clean latents, which sampling's small last steps call for.
    """

    @property
    def changed_share(self) -> float: ...
    @property
    def full_weight_sigma(self) -> float: ...


def noise_levels(count: int, shift: float, blind_from: float, generator: torch.Generator) -> Tensor:
    """[count] sigmas in (0, 1), in random order: half spread over the shifted schedule, half over (blind_from, 1)."""
    parts = (torch.arange(count) + torch.rand(count, generator=generator)) / count
    scheduled, blind = parts[::2], parts[1::2]
    sigmas = torch.cat([shift * scheduled / (1 + (shift - 1) * scheduled), blind_from + (1 - blind_from) * blind])
    return sigmas[torch.randperm(count, generator=generator)]


def flow_loss(errors: Tensor, changed: Tensor, sigma: Tensor, weighing: Weighing) -> Tensor:
    """Squared errors [B, N] of the cells' velocities, averaged per edit over its `changed` [B, N] and over its other
    cells, then over the batch; sigma: [B]."""
    shares = []
    for part, share in ((changed, weighing.changed_share), (~changed, 1 - weighing.changed_share)):
        shares.append(share * (errors * part).sum(dim=1) / part.sum(dim=1).clamp(min=1))
    # Edits of the whole picture have no other cells.
    whole = torch.where(changed.all(dim=1), 1 / weighing.changed_share, 1.0)
    weights = (sigma / weighing.full_weight_sigma).clamp(max=1).square()
    return ((shares[0] * whole + shares[1]) * weights).mean()
