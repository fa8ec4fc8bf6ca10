"""From a job that ended badly to the exception that says so."""

from __future__ import annotations

import json
import re
from typing import Any

from darkroom import errors
from darkroom.client.errors import JobCancelled, JobFailed, JobTimedOut
from darkroom.client.replies import JobStatus


def _retryable_codes(kind: type[errors.DarkroomError]) -> dict[str, bool]:
    codes = {kind.code: kind.retryable}
    for child in kind.__subclasses__():
        codes |= _retryable_codes(child)
    return codes


RETRYABLE = _retryable_codes(errors.DarkroomError)
"""Every code of darkroom.errors -> whether the same request may succeed later."""


def failure(status: JobStatus) -> JobFailed:
    """The error of a job whose status is FAILED, CANCELLED or TIMED_OUT."""
    if status.status == "CANCELLED":
        return JobCancelled(f"job {status.id} was cancelled", job_id=status.id)
    if status.status == "TIMED_OUT":
        said = _sentence(status.error) or "it ran out of its time"
        return JobTimedOut(f"job {status.id} timed out: {said}", job_id=status.id, retryable=True)
    output = status.output if isinstance(status.output, dict) else {}
    code, message = _split(_sentence(status.error) or str(output.get("error") or "no reason given"))
    code = _text(output.get("code")) or code or errors.Internal.code
    details = output.get("details")
    kind = JobCancelled if code == errors.Cancelled.code else JobFailed
    return kind(
        message,
        job_id=status.id,
        code=code,
        retryable=_retryable(output.get("retryable"), code),
        details=details if isinstance(details, dict) else None,
    )


def _retryable(said: Any, code: str) -> bool:
    """The worker's own word; else what the code means; a code that nobody knows is not tried again."""
    if isinstance(said, bool):
        return said
    return RETRYABLE.get(code, False)


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) and value else None


def _sentence(error: Any) -> str:
    """The SDK wraps an exception of a handler in JSON, traceback and host name included: take its message."""
    if isinstance(error, str):
        try:
            error = json.loads(error)
        except ValueError:
            return str(error)
    if isinstance(error, dict):
        return str(error.get("error_message") or error.get("message") or error.get("error") or "")
    return "" if error is None else str(error)


def _split(text: str) -> tuple[str | None, str]:
    """'CODE: sentence' -> (CODE, sentence); no code where there is none."""
    match = re.match(r"([A-Z][A-Z_]{2,40}): (.*)", text, re.DOTALL)
    return (match[1], match[2]) if match else (None, text)
