"""A training, shown as a bar on stderr: the stage at work and how far it has come."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from darkroom.pocket.stages.course import Show


@contextmanager
def stage_bar() -> Iterator[Show]:
    """For a Course's `show`. Nothing is shown where stderr is no terminal; lines printed meanwhile stand above it."""
    console = Console(stderr=True)
    times = (TimeElapsedColumn(), TimeRemainingColumn())
    columns = (TextColumn("{task.description:>16}"), BarColumn(), MofNCompleteColumn(), *times)
    # rich takes over stdout, too, and writes it to stderr: lines that go to a file must still arrive there.
    shared, hidden = sys.stdout.isatty(), not console.is_terminal
    with Progress(*columns, console=console, transient=True, redirect_stdout=shared, disable=hidden) as bar:
        task = bar.add_task("", total=None)
        current = ""

        def show(stage: str, done: int, total: int) -> None:
            nonlocal current
            if stage != current:
                bar.reset(task, description=stage, completed=done, total=total)
                current = stage
            bar.update(task, completed=done)

        yield show
