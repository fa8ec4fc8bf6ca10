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

    def rest(self, part: Any) -> None:
        """`part` has run and is not needed for a while."""

    def leave(self, part: Any) -> None:
        """`part` is let go."""


class Visiting(Resident):
    """A part comes to the device for each use and goes back to the CPU when `rest` is called."""

    def use(self, part: Any) -> None:
        part.to(self.device)

    def rest(self, part: Any) -> None:
        part.to("cpu")


class OneAtATime(Resident):
    """For cards that hold the large parts only one after the other: the one that runs is there, the rest on the CPU.

    A part moves only when another's turn comes, so that the denoising loop moves nothing. One for all models of a
    shelf, since they share parts.
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
        # Nobody is inside until the move has gone through: where memory runs out halfway, the part goes back.
        self._inside = None
        try:
            part.to(self.device)
        except BaseException:
            part.to("cpu")
            raise
        self._inside = part

    def leave(self, part: Any) -> None:
        """`part` is let go; whoever was inside must not be kept alive by this."""
        if part is self._inside:
            self._inside = None
