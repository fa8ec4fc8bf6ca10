"""`darkroom doctor`: can this machine serve, and if not, what to do."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from darkroom.cli_options import OK, SOME_FAILED

_MARKS = {"ok": "[green]ok[/]", "warn": "[yellow]warn[/]", "fail": "[bold red]fail[/]"}


def doctor(
    folder: Annotated[Path, typer.Option(help="Folder whose disk results and models would fill.")] = Path(),
) -> None:
    """Check Python, packages, GPU, memory, disk, models and store; say what to do about what is missing.

    Exits with 1 when a check fails. Loads no model and downloads nothing.
    """
    from rich import box
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    from darkroom.cli_doctor_checks import examine

    findings = examine(folder)
    table = Table(box=box.SIMPLE_HEAD)
    for column in ("check", "", "found", "what to do"):
        table.add_column(column, overflow="fold")
    for finding in findings:
        table.add_row(finding.check, _MARKS[finding.state], escape(finding.found), escape(finding.remedy))
    Console().print(table)
    raise typer.Exit(SOME_FAILED if any(finding.state == "fail" for finding in findings) else OK)
