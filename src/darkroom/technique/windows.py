"""Which steps of a run a loss guides."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from darkroom.errors import InvalidInput


@dataclass(frozen=True)
class Window:
    """Noise levels at which a loss guides: high >= sigma >= low.

    Above `high` the predicted picture is a blur that says little; below `low` the network no longer repairs what
    guidance leaves behind.
    """

    high: float
    low: float


WINDOWS = {"edge": Window(0.85, 0.3), "gram": Window(0.6, 0.1), "temporal": Window(0.6, 0.1)}
"""The default per loss: structure is settled earlier than style and texture."""


def guided_steps(
    sigmas: Tensor,
    window: Window,
    *,
    start_step: int | None = None,
    end_step: int | None = None,
    last_steps: int | None = None,
    every: int = 1,
) -> frozenset[int]:
    """The steps, counted from 0, at which to guide; never the last one, which nothing denoises again.

    sigmas: [T + 1], falling to 0. start_step and end_step (both inclusive) and last_steps (the last so many of the
    run's steps, the very last among them left out) win over `window` when any of them is given, and cut each other
    when several are. every: of the steps found so, take each N-th, beginning with the first.
    Raises InvalidInput, naming the field, for a range that cannot be.
    """
    total = len(sigmas) - 1
    _check(total, start_step, end_step, last_steps, every)
    if start_step is None and end_step is None and last_steps is None:
        steps = [step for step in range(total) if window.low <= float(sigmas[step]) <= window.high]
    else:
        first = max(start_step or 0, total - last_steps if last_steps is not None else 0)
        last = total - 1 if end_step is None else end_step
        steps = list(range(first, last + 1))
    return frozenset(step for step in steps[::every] if step < total - 1)


def _check(total: int, start: int | None, end: int | None, last: int | None, every: int) -> None:
    if every < 1:
        raise InvalidInput(f"every must be at least 1, not {every}", field="every")
    for name, value in (("start_step", start), ("end_step", end)):
        if value is not None and not 0 <= value < total:
            raise InvalidInput(f"{name} {value} is outside the run's steps 0…{total - 1}", field=name)
    if start is not None and end is not None and start > end:
        raise InvalidInput(f"start_step {start} comes after end_step {end}", field="start_step")
    if last is not None and not 1 <= last <= total:
        raise InvalidInput(f"last_steps {last} is not within the run's 1…{total} steps", field="last_steps")
