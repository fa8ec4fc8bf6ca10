"""Where a model's parts are while they wait: all on the device, or one at a time."""

from __future__ import annotations

from typing import Any

import torch


class Resident:
    """Every part stays on the device: nothing ever moves."""

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def use(self, part: Any) -> None:
        """`part` runs next."""


class OneAtATime(Resident):
    """For cards that hold the parts only one after the other: the one that runs is on the device, the rest on the CPU.

    A part moves only when another's turn comes, so that the denoising loop moves nothing.
    """

    def __init__(self, device: torch.device) -> None:
        super().__init__(device)
        self._inside: Any = None

    def use(self, part: Any) -> None:
        """Bring `part` in and send the one that was there out."""
        if part is self._inside:
            return
        if self._inside is not None:
            self._inside.to("cpu")
        part.to(self.device)
        self._inside = part
