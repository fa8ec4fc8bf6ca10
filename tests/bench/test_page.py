"""docs/performance.md says what the result files say, and nothing where there is no result."""

from __future__ import annotations

from typing import Any

import pytest

from darkroom.bench.page import CPU, GPU, NOTHING, PAGE, ROWS, lever_table, read, written


def test_the_page_agrees_with_the_results() -> None:
    page = PAGE.read_text("utf-8")
    assert page == written(page, read(CPU), read(GPU)), "run python -m darkroom.bench.page"


def test_without_results_every_cell_says_so() -> None:
    lines = lever_table(None, None).splitlines()[2:]
    assert len(lines) == len(ROWS)
    assert all(line.endswith(f"| {NOTHING} | {NOTHING} |") for line in lines)


@pytest.mark.parametrize("said", [{"status": "failed", "reason": "OutOfMemoryError: "}, {"status": "skipped"}])
def test_a_section_that_failed_or_was_skipped_fills_no_cell(said: dict[str, Any]) -> None:
    names = ("diffusers", "all, bf16", "all, fp8", "vae", "cold start", "guided step", "lever: lean")
    table = lever_table(None, {"sections": dict.fromkeys(names, said)})
    assert all(line.endswith(f"| {NOTHING} |") for line in table.splitlines()[2:])


def test_a_page_without_its_marks_is_refused() -> None:
    with pytest.raises(ValueError, match="the page has no part between"):
        written("# Performance", None, None)
