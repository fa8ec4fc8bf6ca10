"""The exponential moving average of weights, which samples better than the last step's."""

import torch
from torch import Tensor, nn


class Average:
    """A float32 copy of named parameters that follows them; early on it follows faster, to forget the start."""

    def __init__(self, parameters: dict[str, nn.Parameter], decay: float) -> None:
        self.decay = decay
        self.values: dict[str, Tensor] = {name: p.detach().clone() for name, p in parameters.items()}

    @torch.no_grad()
    def update(self, parameters: dict[str, nn.Parameter], step: int) -> None:
        """Take in the parameters after step number `step` (from 0)."""
        decay = min(self.decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(list(self.values.values()), [parameters[name] for name in self.values], 1 - decay)

    @torch.no_grad()
    def write(self, parameters: dict[str, nn.Parameter]) -> None:
        """Overwrite the parameters with their average."""
        for name, value in self.values.items():
            parameters[name].copy_(value)
