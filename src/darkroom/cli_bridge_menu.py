"""`darkroom bridge` by itself on a terminal: a menu of its commands."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence

import typer

Run = Callable[[Sequence[str]], None]
"""Runs one command of `darkroom bridge`, given as its words."""

MENU = (
    ("Basic comparison: baseline beside enhanced", "compare"),
    ("Text: words changed, read back by Tesseract", "ocr"),
    ("Space: shapes moved", "spatial"),
    ("Detail: what an edit leaves alone", "detail"),
    ("Full evaluation, with a report", "evaluate"),
    ("Attention: which level the bridge looks at, and where", "attention"),
    ("All of it", "all"),
)
OF_A_PICTURE = ("compare", "attention", "all")


def start(context: typer.Context) -> None:
    """Put Qwen3-VL's sight inside Qwen-Image-Edit: compare, look, train, evaluate. By itself: a menu."""
    if context.invoked_subcommand is not None:
        return
    if not sys.stdin.isatty():
        typer.echo(context.get_help())
        return
    group = context.command

    def run(words: Sequence[str]) -> None:
        group.main(list(words), prog_name=context.command_path, standalone_mode=False)

    menu(run)


def menu(run: Run) -> None:
    """Ask what to do, and for a picture and an instruction where they are needed, until the answer is 0."""
    while True:
        for number, (title, _) in enumerate(MENU, 1):
            typer.echo(f"  {number}  {title}")
        typer.echo("  0  leave")
        chosen = typer.prompt("Which", type=int, default=0)
        if not 0 <= chosen <= len(MENU):
            typer.echo(f"There is no {chosen}.")
            continue
        if chosen == 0:
            return
        run(words_for(MENU[chosen - 1][1]))


def words_for(command: str) -> list[str]:
    """The command with the answers to what it needs."""
    if command not in OF_A_PICTURE:
        return [command]
    picture = typer.prompt("Picture (file or address)", default="examples/photo.jpg")
    return [command, picture, "--prompt", typer.prompt("What to change", default="make it sepia")]
