"""`darkroom bridge` evaluates, and asks what to do where nobody has said it."""

from __future__ import annotations

import typer
from typer.testing import CliRunner

from darkroom.cli import app
from darkroom.cli_bridge_evaluate import SUITE_COMMANDS
from darkroom.cli_bridge_menu import MENU, menu
from darkroom.jobs.bridge_evaluate import SUITES


def answered(*answers: str) -> tuple[list[list[str]], str]:
    """(commands that the menu ran, what it printed) for these answers."""
    ran: list[list[str]] = []
    asking = typer.Typer()
    asking.command()(lambda: menu(lambda words: ran.append(list(words))))
    result = CliRunner().invoke(asking, input="\n".join(answers) + "\n")
    assert result.exit_code == 0, result.output
    return ran, result.output


def test_the_menu_runs_what_is_chosen_until_it_is_left() -> None:
    ran, output = answered("2", "9", "5", "0")
    assert ran == [["ocr"], ["evaluate"]]
    assert "There is no 9." in output


def test_a_picture_and_an_instruction_are_asked_for_where_they_are_needed() -> None:
    ran, _ = answered("1", "cat.png", "make it red", "6", "", "", "0")
    assert ran == [
        ["compare", "cat.png", "--prompt", "make it red"],
        ["attention", "examples/photo.jpg", "--prompt", "make it sepia"],
    ]


def test_every_entry_of_the_menu_and_every_suite_is_a_command() -> None:
    result = CliRunner().invoke(app, ["bridge", "--help"])
    assert result.exit_code == 0
    for name in [*(command for _, command in MENU), *SUITES, "extract"]:
        assert f" {name} " in result.output, name
    assert set(SUITE_COMMANDS) == set(SUITES)


def test_without_a_terminal_the_commands_are_listed_and_nothing_is_asked() -> None:
    result = CliRunner().invoke(app, ["bridge"])
    assert result.exit_code == 0
    assert "evaluate" in result.output
    assert "0  leave" not in result.output


def test_a_suite_that_does_not_exist_is_refused_before_anything_is_sent() -> None:
    result = CliRunner().invoke(app, ["bridge", "evaluate", "--suite", "colour"])
    assert result.exit_code == 2
    assert "suites[0]" in result.output
