"""A running job, shown as it goes: on stderr, so that stdout stays for results."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn

from darkroom.client.replies import JobStatus

_WORDS = {"IN_QUEUE": "waiting for a worker", "IN_PROGRESS": "working"}


@contextmanager
def watching(every_step: bool) -> Iterator[Callable[[JobStatus], None]]:
    """A callback for a client's `progress`. With `every_step` each change is also kept as a line of its own."""
    console = Console(stderr=True)
    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(_WORDS["IN_QUEUE"], total=None)
        last = ""

        def progress(status: JobStatus) -> None:
            nonlocal last
            text = described(status)
            show(bar, task, text, status.output)
            if (every_step or status.problem) and text != last:
                console.print(text, highlight=False, markup=False)
                last = text

        yield progress


def show(bar: Progress, task: TaskID, text: str, output: Any) -> None:
    """Move the bar to where the worker says it is."""
    step, steps = steps_of(output)
    bar.update(task, description=text, completed=step or 0, total=steps)


def described(status: JobStatus) -> str:
    """One line: 'denoise 3/8', or what the platform says while the worker says nothing."""
    output = status.output
    step, steps = steps_of(output)
    if status.problem:
        return f"{_WORDS['IN_QUEUE']}: {status.problem}"
    if isinstance(output, str):
        return output
    if not isinstance(output, dict):
        return _WORDS.get(status.status, status.status.lower())
    stage = str(output.get("stage") or output.get("message") or _WORDS["IN_PROGRESS"])
    return f"{stage} {step}/{steps}" if step is not None and steps else stage


def steps_of(output: Any) -> tuple[int | None, int | None]:
    """(steps done, steps in all) as far as the worker tells them."""
    if not isinstance(output, dict):
        return None, None
    step, steps = output.get("done"), output.get("total")
    return (step if isinstance(step, int) else None), (steps if isinstance(steps, int) else None)
