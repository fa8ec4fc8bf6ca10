"""What the stages of one training share: where they compute, how long they may go on, how their progress is seen."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import cv2
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset

Report = Callable[[str], None]
# Shows that a stage has made so many of its steps: (stage, done, total).
Show = Callable[[str, int, int], None]
Drawn = TypeVar("Drawn")


class OutOfTime(Exception):
    """The minutes are over; what was reached is kept, and the same training goes on from there."""

    def __init__(self, stage: str, done: int, total: int) -> None:
        super().__init__(f"{stage}: {done} of {total}")


class Course:
    """One run of the training: `minutes` of wall clock from now on over all stages, without end where that is None.

    device: models go there for their stage and come back. every: steps between checkpoints. workers: processes that
    draw pictures ahead of need; 0 draws them here. None of this changes what is drawn, nor, on one device, the weights.
    """

    def __init__(
        self,
        report: Report = lambda line: None,
        *,
        show: Show = lambda stage, done, total: None,
        device: torch.device | None = None,
        minutes: float | None = None,
        every: int = 100,
        workers: int = 0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.report, self.device, self.every = report, device or torch.device("cpu"), every
        self._show, self._workers, self._clock = show, workers, clock
        self._end = math.inf if minutes is None else clock() + 60 * minutes
        self._moved = False

    def steps(
        self,
        stage: str,
        first: int,
        total: int,
        keep: Callable[[int], None],
        until: int | None = None,
        every: int | None = None,
    ) -> Iterator[int]:
        """The numbers of a stage's steps from `first` on. `until` ends them early, as a kill would.

        `keep(done)` is called after every so many steps (`every`, or the course's own), after the last one, and before
        OutOfTime is raised.
        """
        last = min(total, until or total)
        self._show(stage, first, total)
        for step in range(first, last):
            yield step
            done = step + 1
            stopping = self.moved(stage, done, total)
            if stopping or done % (every or self.every) == 0 or done == last:
                keep(done)
            if stopping:
                raise OutOfTime(stage, done, total)

    def moved(self, stage: str, done: int, total: int) -> bool:
        """Say that the stage has come so far; whether it must keep that now and raise OutOfTime."""
        self._moved = True
        self._show(stage, done, total)
        return done < total and self._over

    def begin(self, stage: str, total: int) -> None:
        """Raises OutOfTime where the time is over; never before this run has made a step, however short it is."""
        if self._moved and self._over:
            raise OutOfTime(stage, 0, total)

    @property
    def _over(self) -> bool:
        return self._clock() >= self._end

    @contextmanager
    def at(self, *models: nn.Module) -> Iterator[None]:
        """`models` on the device, in place, and on the CPU afterwards."""
        try:
            for model in models:
                model.to(self.device)
            yield
        finally:
            for model in models:
                model.to("cpu")

    def drawn(self, draw: Callable[[int], Drawn], numbers: Sequence[int]) -> Iterator[Drawn]:
        """`draw` of each number, in order. `draw` must give the same wherever it runs, and be fit to travel there."""
        if not self._workers:
            return map(draw, numbers)
        drawing = _Draws(draw, numbers)
        return iter(
            DataLoader(
                drawing, batch_size=None, num_workers=self._workers, collate_fn=_as_it_is, worker_init_fn=_one_thread
            )
        )


class _Draws(Dataset[Any]):
    def __init__(self, draw: Callable[[int], Any], numbers: Sequence[int]) -> None:
        self._draw, self._numbers = draw, numbers

    def __len__(self) -> int:
        return len(self._numbers)

    def __getitem__(self, index: int) -> Any:
        return self._draw(self._numbers[index])


def _as_it_is(drawn: Any) -> Any:
    return drawn


def _one_thread(worker: int) -> None:
    # A forked process lacks the threads that OpenCV believes it has.
    cv2.setNumThreads(0)
