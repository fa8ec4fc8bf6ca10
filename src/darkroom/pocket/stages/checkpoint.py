"""Checkpoints that survive being killed while they are written, and that any device can read; other files likewise."""

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor


@contextmanager
def written_beside(path: Path) -> Iterator[Path]:
    """Where to write what belongs at `path`: once that is written it is put in place in one move."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_suffix(".writing")
    yield unfinished
    os.replace(unfinished, path)


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Write `state` beside `path`, then put it in place in one move."""
    with written_beside(path) as unfinished:
        torch.save(state, unfinished)


def save_note(path: Path, note: Mapping[str, Any]) -> None:
    """`note` as JSON, in place in one move."""
    with written_beside(path) as unfinished:
        unfinished.write_text(json.dumps(note, indent=2) + "\n")


def load_note(path: Path) -> dict[str, Any] | None:
    """The note last saved at `path`, None where there is none. Raises ValueError, which names the file, if damaged."""
    if not path.exists():
        return None
    mend = "bring it back from a copy, or take another folder"
    try:
        note = json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f"{path} is damaged: {error}; {mend}") from error
    if not isinstance(note, dict):
        raise ValueError(f"{path} is damaged: it holds no JSON object; {mend}")
    return note


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
