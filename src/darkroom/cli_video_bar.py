"""A clip being made, shown as two bars on stderr: frames, and the steps of the frame at work."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

WAITING = "waiting for a worker"


@contextmanager
def clip_bar() -> Iterator[Callable[[Any], None]]:
    """A callback for a job's progress as the worker tells it; anything else than a video_edit's is shown as a word."""
    console = Console(stderr=True)
    columns = (TextColumn("{task.description:>20}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        frames = bar.add_task(WAITING, total=None)
        steps = bar.add_task("", total=None, visible=False)

        def show(payload: Any) -> None:
            if not isinstance(payload, dict):
                return
            if "frames" not in payload:
                bar.update(frames, description=str(payload.get("stage", WAITING)))
                return
            done = payload["frame"] - (payload["step"] < payload["steps"])
            bar.update(frames, description="frames", completed=done, total=payload["frames"])
            bar.update(steps, description="steps", completed=payload["step"], total=payload["steps"], visible=True)

        yield show
