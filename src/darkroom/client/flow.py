"""Conversations with an endpoint, without a socket.

A flow is a generator: it yields a `Call` to make or a `Pause` to take, is sent what came of it and
returns its result. `Client` drives flows with blocking I/O, `AsyncClient` with asyncio; both speak
the same protocol because there is only one, here.
"""

from __future__ import annotations

import json
from collections.abc import Generator, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from darkroom.client.errors import (
    BadReply,
    ClientError,
    EndpointUnreachable,
    RateLimited,
    RequestRefused,
    Unauthorized,
)
from darkroom.client.retry import Gate, Retry, retry_after

T = TypeVar("T")


@dataclass(frozen=True)
class Call:
    """One HTTP exchange. `address` is a path of the endpoint, or a whole URL, which never gets the key."""

    method: str
    address: str
    body: bytes | None = field(default=None, repr=False)


@dataclass(frozen=True)
class Pause:
    """Let so much time pass."""

    seconds: float


@dataclass(frozen=True)
class Answer:
    """What the other side said."""

    status: int
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = field(default=b"", repr=False)


@dataclass(frozen=True)
class NoAnswer:
    """No answer came: whether the other side acted on the call is unknown."""

    reason: str


LEAST_PAUSE = 0.01
"""Seconds. `Retry-After: 0` or a date of the past never makes a caller ask without end."""

Flow = Generator[Call | Pause, Answer | NoAnswer | None, T]


def exchange(call: Call, retry: Retry, gate: Gate | None) -> Flow[Answer]:
    """Make the call until it is answered by anything but a server error or 429.

    A 429 shuts the gate, so that every call waits; without a gate this call waits alone.
    Only for calls that may be repeated: reading, cancelling, and submitting under an idempotency key.
    Raises EndpointUnreachable or RateLimited.
    """
    failures, limits, waited_seconds = 0, 0, 0.0
    while True:
        answer = yield call
        if isinstance(answer, Answer) and answer.status == 429:
            limits += 1
            seconds = max(LEAST_PAUSE, retry.backoff(limits), retry_after(answer.headers, 0.0))
            waited_seconds += seconds
            if waited_seconds > retry.patience_seconds:
                raise RateLimited(
                    f"the endpoint limits its callers and asks to wait another {seconds:.0f} s",
                    retry_after_seconds=seconds,
                )
            if gate is None:
                yield Pause(seconds)
            else:
                gate.close(seconds)
            continue
        if isinstance(answer, Answer) and answer.status < 500:
            return answer
        failures += 1
        if failures >= retry.attempts:
            raise _unreachable(answer, failures)
        yield Pause(_pause(answer, retry, failures))


def _pause(answer: Answer | NoAnswer | None, retry: Retry, failures: int) -> float:
    own = retry.backoff(failures)
    if not isinstance(answer, Answer):
        return own
    return min(max(own, retry_after(answer.headers, 0.0)), retry.patience_seconds)


def _unreachable(answer: Answer | NoAnswer | None, tries: int) -> EndpointUnreachable:
    times = "once" if tries == 1 else f"{tries} times"
    if isinstance(answer, Answer):
        said = f": {reason}" if (reason := said_in(answer)) else ""
        message = f"the endpoint answered {answer.status}{said} (tried {times})"
        return EndpointUnreachable(message, status=answer.status)
    why = answer.reason if isinstance(answer, NoAnswer) else "no answer"
    return EndpointUnreachable(f"the endpoint does not answer: {why} (tried {times})")


def content(answer: Answer) -> Any:
    """The JSON of a good answer. Raises the error that any other answer stands for."""
    if answer.status in (401, 403):
        raise Unauthorized(f"the endpoint refuses this API key ({answer.status}); is RUNPOD_API_KEY right?")
    if answer.status == 404:
        raise EndpointUnreachable("there is no endpoint at this address (404)", status=404)
    if answer.status >= 400:
        raise _refused(answer)
    if answer.status >= 300:
        raise BadReply(f"the address redirects ({answer.status}); give the endpoint's own address")
    try:
        return json.loads(answer.body)
    except ValueError:
        raise BadReply("the answer is not JSON: probably not a RunPod endpoint") from None


def _refused(answer: Answer) -> ClientError:
    message = f"the endpoint refused the request ({answer.status}): {said_in(answer) or 'no reason given'}"
    return RequestRefused(message, status=answer.status)


def said_in(answer: Answer) -> str:
    """The sentence in an error body, at most 300 characters, whichever of the usual keys it stands under."""
    try:
        value = json.loads(answer.body)
    except ValueError:
        return ""
    if isinstance(value, dict):
        value = next((value[key] for key in ("error", "detail", "message", "title") if value.get(key)), "")
    text = value if isinstance(value, str) else json.dumps(value)
    return text[:300]
