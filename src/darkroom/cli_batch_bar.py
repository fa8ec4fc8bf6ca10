"""A batch's bar: jobs, failures, time left and dollars; plain lines where nobody looks at a terminal."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from darkroom.cli_text import usd
from darkroom.client.batch.ledger import Entry
from darkroom.client.batch.plan import Planned
from darkroom.client.replies import JobStatus


@contextmanager
def bars(total: int) -> Iterator[tuple[Callable[[Planned, Entry], None], Callable[[JobStatus], None]]]:
    """What a Batch takes as `listen` and as `progress`."""
    console = Console(stderr=True)
    columns = (
        TextColumn("edits"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("left"),
        TimeRemainingColumn(), TextColumn("{task.fields[cost]}"), TextColumn("[red]{task.fields[failures]}"),
    )
    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task("", total=total, cost=usd(0.0), failures="")
        spent, failed = 0.0, 0

        def listen(planned: Planned, entry: Entry) -> None:
            nonlocal spent, failed
            spent += entry.usd if entry.state == "done" else 0.0
            failed += entry.state == "failed"
            bar.update(task, advance=1, cost=usd(spent), failures=f"{failed} failed" if failed else "")
            if entry.state == "failed":
                error = entry.error or {}
                text = f"{planned.where}: {error.get('code')}: {error.get('message')}"
                console.print(text, style="red", markup=False)
            elif not console.is_terminal:
                console.print(f"{planned.where}: done", highlight=False, markup=False)

        told: set[str] = set()

        def progress(status: JobStatus) -> None:
            if status.problem and status.problem not in told:
                told.add(status.problem)
                console.print(f"no worker takes the jobs: {status.problem}", style="yellow", markup=False)

        yield listen, progress
