"""Muon: momentum whose matrix updates are made orthogonal (Jordan et al. 2024, "Muon", Newton-Schulz iteration).

Convolutions count as matrices of [out, in · kernel]. Matrices of one shape are orthogonalised together, which on a CPU
is much faster than one by one.
"""

from collections import defaultdict
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from darkroom.pocket.stages.fast_numbers import fast_numbers

_COEFFICIENTS = (3.4445, -4.7750, 2.0315)


class Muon(torch.optim.Optimizer):
    """For parameters of two or more dimensions; `lr` is the spectral norm of an update of a square matrix."""

    def __init__(self, params: Iterable[Any], lr: float = 0.01, momentum: float = 0.95, decay: float = 0.0) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "decay": decay})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """One update of every parameter that has a gradient."""
        for group in self.param_groups:
            for batch in _by_shape(group["params"]).values():
                self._step_batch(batch, group)

    def _step_batch(self, parameters: list[nn.Parameter], group: dict[str, Any]) -> None:
        moved = [self._nesterov(parameter, group["momentum"]) for parameter in parameters]
        updates = orthogonal(torch.stack([matrix.flatten(1) for matrix in moved]))
        rows, columns = updates.shape[-2:]
        scale = max(1.0, rows / columns) ** 0.5
        for parameter, update in zip(parameters, updates, strict=True):
            parameter.mul_(1 - group["lr"] * group["decay"])
            parameter.add_(update.view_as(parameter), alpha=-group["lr"] * scale)

    def _nesterov(self, parameter: nn.Parameter, momentum: float) -> Tensor:
        gradient = parameter.grad
        assert gradient is not None
        state = self.state[parameter]
        if "average" not in state:
            state["average"] = torch.zeros_like(gradient)
        state["average"].lerp_(gradient, 1 - momentum)
        return gradient.lerp(state["average"], momentum)


def orthogonal(matrices: Tensor, iterations: int = 5) -> Tensor:
    """The nearly orthogonal factor of each of [N, rows, columns]: singular values between about 0.7 and 1.2."""
    a, b, c = _COEFFICIENTS
    x = matrices.to(fast_numbers(matrices.device))
    tall = x.shape[-2] > x.shape[-1]
    if tall:
        x = x.mT.contiguous()
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(iterations):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    upright: Tensor = x.mT if tall else x
    return upright.to(matrices.dtype)


def _by_shape(parameters: list[nn.Parameter]) -> dict[torch.Size, list[nn.Parameter]]:
    groups: dict[torch.Size, list[nn.Parameter]] = defaultdict(list)
    for parameter in parameters:
        if parameter.grad is not None:
            groups[parameter.shape].append(parameter)
    return groups
