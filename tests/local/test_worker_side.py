"""What workers post, as the outcome of a job."""

from __future__ import annotations

from darkroom.local.worker_side import outcome_of


def test_an_error_that_is_no_text_can_still_be_written_down() -> None:
    """Half of a surrogate pair: valid JSON, but no database and no socket takes it."""
    outcome = outcome_of({"error": "bad \ud800 name ☃"})
    assert (outcome.status, outcome.error) == ("FAILED", "bad \\ud800 name ☃")
