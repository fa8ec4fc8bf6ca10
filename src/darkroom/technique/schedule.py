"""Noise levels: which sigmas a job passes through, as a pure function of its settings."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

LIGHTNING_SHIFT = math.log(3)
"""Lightning LoRAs are distilled at one fixed shift for every size, without a terminal stretch."""


@dataclass(frozen=True)
class Schedule:
    """Constants of a shifted flow schedule (FlowMatchEulerDiscreteScheduler's names).

    The log shift mu grows linearly from base_shift at base_image_seq_len tokens to max_shift at
    max_image_seq_len. shift_terminal stretches the schedule so that its last sigma before 0 has that value.
    """

    base_shift: float = 0.5
    max_shift: float = 1.15
    base_image_seq_len: int = 256
    max_image_seq_len: int = 4096
    shift_terminal: float | None = None

    def mu(self, tokens: int) -> float:
        """The log shift for a picture of so many tokens."""
        slope = (self.max_shift - self.base_shift) / (self.max_image_seq_len - self.base_image_seq_len)
        return tokens * slope + (self.base_shift - slope * self.base_image_seq_len)

    def sigmas(self, steps: int, tokens: int) -> Tensor:
        """[steps + 1] float32 from 1 to 0, equal bit for bit to diffusers' scheduler (exponential shift)."""
        even = np.linspace(1.0, 1 / steps, steps).astype(np.float32)
        shift = math.exp(self.mu(tokens))
        sigmas: np.ndarray = shift / (shift + (1 / even - 1) ** 1.0)
        if self.shift_terminal:
            sigmas = _stretched(sigmas, self.shift_terminal)
        return torch.cat([torch.from_numpy(sigmas).float(), torch.zeros(1)])

    def fixed(self, shift: float) -> Schedule:
        """The same schedule with one shift for all sizes and no terminal stretch."""
        return Schedule(shift, shift, self.base_image_seq_len, self.max_image_seq_len, None)


def _stretched(sigmas: np.ndarray, terminal: float) -> np.ndarray:
    """Stretch 1 - sigma so that the last sigma is `terminal`; one step alone has nothing to stretch."""
    rest = 1 - sigmas
    if rest[-1] == 0:
        return sigmas
    return np.asarray(1 - rest / (rest[-1] / (1 - terminal)))
