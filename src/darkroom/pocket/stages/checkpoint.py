"""Checkpoints that survive being killed while they are written, and that any device can read."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Write `state` beside `path`, then put it in place in one move."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_suffix(".writing")
    torch.save(state, unfinished)
    os.replace(unfinished, path)


def load_checkpoint(path: Path) -> dict[str, Any] | None:
    """The state last saved at `path`, on the CPU; None where there is none."""
    if not path.exists():
        return None
    state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    return state


def keep(
    path: Path, step: int, weights: Mapping[str, Tensor], optimizers: Sequence[torch.optim.Optimizer], **more: Any
) -> None:
    """A stage after `step` steps."""
    save_checkpoint(
        path,
        {
            "step": step,
            "weights": {name: weight.detach() for name, weight in weights.items()},
            "optimizers": [optimizer.state_dict() for optimizer in optimizers],
            **more,
        },
    )


def resume(path: Path, weights: Mapping[str, Tensor], optimizers: Sequence[torch.optim.Optimizer]) -> int:
    """Fill `weights` and `optimizers` from what `keep` wrote; returns the step, 0 where nothing was written."""
    state = load_checkpoint(path)
    return 0 if state is None else fill(state, weights, optimizers)


def fill(state: Mapping[str, Any], weights: Mapping[str, Tensor], optimizers: Sequence[torch.optim.Optimizer]) -> int:
    """`resume` from a checkpoint that is already read."""
    with torch.no_grad():
        for name, weight in weights.items():
            weight.copy_(state["weights"][name])
    for optimizer, saved in zip(optimizers, state["optimizers"], strict=True):
        # Rates are the recipe's, not the file's.
        rates = [{"peak": group["peak"]} if "peak" in group else {} for group in optimizer.param_groups]
        optimizer.load_state_dict(saved)
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            group.update(rate)
    return int(state["step"])
