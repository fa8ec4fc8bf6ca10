"""RunPod's API v2 as flows: submit, wait, run, cancel, health, fetch."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

from darkroom.client.errors import (
    BadReply,
    DownloadFailed,
    EndpointUnreachable,
    JobFailed,
    JobLost,
    RateLimited,
    RequestRefused,
    WaitTimeout,
)
from darkroom.client.failure import failure
from darkroom.client.flow import Call, Flow, Pause, content, exchange
from darkroom.client.replies import EndpointHealth, JobHandle, JobStatus, read
from darkroom.client.retry import Gate, Retry

MAX_REQUEST_BYTES = 10_000_000
"""RunPod's limit for the body of /run."""

PICTURES = "give the pictures as links, or make them smaller (the model works at about 1 megapixel)"
FILES = "give a link, or put it into the worker's bucket and give s3://bucket/key"
FOLDERS = "give a zip's link, or put the folder into the worker's bucket and give s3://bucket/folder/"
ADVICE = {"dataset": FOLDERS, "edges": FOLDERS, "source_video": FILES, "head": FILES}
"""By the largest field, for a request over the limit; other fields hold pictures."""

Progress = Callable[[JobStatus], None]


@dataclass(frozen=True)
class Polling:
    """How often a job's status is asked for: after `share` of its time in this state, within the bounds.

    A job is noticed at most that share too late, and a long one costs few requests. A short job after a long
    wait for a worker is still noticed soon, because running is another state than queueing. Seconds.
    """

    least_seconds: float = 0.1
    most_seconds: float = 3.0
    share: float = 0.1
    doubt_seconds: float = 5.0
    """A job that stays queued so long makes the client ask /health why, if anybody listens to progress."""

    def interval(self, state_seconds: float) -> float:
        """Seconds until the next question."""
        return min(self.most_seconds, max(self.least_seconds, self.share * state_seconds))


def new_key() -> str:
    """An idempotency key that nobody else has."""
    return uuid.uuid4().hex


@dataclass
class Protocol:
    """The flows of one endpoint; they share its gate, so that a 429 to one holds back all."""

    retry: Retry = field(default_factory=Retry)
    polling: Polling = field(default_factory=Polling)
    gate: Gate = field(default_factory=Gate)

    def submit(self, job_input: Mapping[str, Any], envelope: Mapping[str, Any]) -> Flow[JobHandle]:
        """POST /run. The input gets an idempotency key if it has none, so that repeating it is safe.

        `envelope` holds what stands beside `input`: webhook, policy, s3Config.
        """
        key = job_input.get("idempotency_key") or new_key()
        body = _body({**envelope, "input": {**job_input, "idempotency_key": key}})
        answer = yield from exchange(Call("POST", "/run", body), self.retry, self.gate)
        value = content(answer)
        if not isinstance(value, dict):
            raise BadReply("the answer to /run is not an object")
        return read(JobHandle, {**value, "idempotency_key": key})

    def status(self, job_id: str) -> Flow[JobStatus]:
        """GET /status. Raises JobLost where the endpoint does not know the job."""
        answer = yield from exchange(Call("GET", f"/status/{quote(job_id, safe='')}"), self.retry, self.gate)
        if answer.status == 404:
            raise _lost(job_id, retryable=True)
        return read(JobStatus, content(answer))

    def wait(
        self,
        job_id: str,
        progress: Progress | None,
        timeout_seconds: float | None,
        told: JobStatus | None = None,
    ) -> Flow[JobStatus]:
        """Ask until the job ends. `progress` hears of every change, the first one being other than `told`.

        Raises JobFailed or one of its children, or WaitTimeout.
        """
        started = time.monotonic()
        state, since, asked = "", started, started
        problem: str | None = None
        while True:
            status = yield from self.status(job_id)
            if status.status != state:
                state, since = status.status, time.monotonic()
            if state == "IN_QUEUE" and progress is not None:
                if time.monotonic() - asked >= self.polling.doubt_seconds:
                    problem, asked = (yield from self.health()).trouble, time.monotonic()
                status = status.model_copy(update={"problem": problem})
            if status.done:
                if status.status != "COMPLETED":
                    raise failure(status)
                return status
            if progress is not None and status != told:
                progress(status)
                told = status
            waited = time.monotonic() - started
            if timeout_seconds is not None and waited >= timeout_seconds:
                message = f"job {job_id} is still {status.status} after {waited:.0f} s"
                raise WaitTimeout(message, job_id=job_id)
            yield Pause(self.polling.interval(time.monotonic() - since))

    def run(
        self,
        job_input: Mapping[str, Any],
        envelope: Mapping[str, Any],
        progress: Progress | None,
        timeout_seconds: float | None,
    ) -> Flow[tuple[JobHandle, JobStatus]]:
        """Submit and wait; a job that failed but may succeed is submitted again under the same key.

        `progress` hears of each submission at once: whoever stops waiting has the id to cancel. timeout_seconds: of all
        submissions together; none follows a failure that leaves no time for it.
        """
        until = None if timeout_seconds is None else time.monotonic() + timeout_seconds
        keyed = {**job_input, "idempotency_key": job_input.get("idempotency_key") or new_key()}
        for attempt in range(1, self.retry.job_attempts + 1):
            handle = yield from self.submit(keyed, envelope)
            accepted = JobStatus(id=handle.id, status="IN_QUEUE")
            if progress is not None:
                progress(accepted)
            try:
                left = None if until is None else max(0.0, until - time.monotonic())
                return handle, (yield from self.wait(handle.id, progress, left, accepted))
            except JobFailed as error:
                pause = self.retry.backoff(attempt)
                late = until is not None and time.monotonic() + pause >= until
                if not error.retryable or attempt == self.retry.job_attempts or late:
                    raise
                yield Pause(pause)
        raise AssertionError("job_attempts is at least 1")

    def cancel(self, job_id: str) -> Flow[JobStatus]:
        """POST /cancel; a job that has already ended stays as it is."""
        answer = yield from exchange(Call("POST", f"/cancel/{quote(job_id, safe='')}"), self.retry, self.gate)
        if answer.status == 404:
            raise _lost(job_id, retryable=False)
        return read(JobStatus, content(answer))

    def health(self) -> Flow[EndpointHealth]:
        """GET /health."""
        answer = yield from exchange(Call("GET", "/health"), self.retry, self.gate)
        return read(EndpointHealth, content(answer))

    def fetch(self, url: str) -> Flow[bytes]:
        """The bytes behind a result's link. Raises DownloadFailed."""
        try:
            # No gate: a store's 429 says nothing about the endpoint.
            answer = yield from exchange(Call("GET", url), self.retry, None)
        except RateLimited as error:
            message = f"the result's store limits its callers and asks to wait {error.retry_after_seconds:.0f} s"
            raise DownloadFailed(message, status=429) from None
        except EndpointUnreachable as error:
            message = f"the result's store does not answer: {error.message}"
            raise DownloadFailed(message, status=error.status) from None
        if answer.status != 200:
            raise DownloadFailed(f"the result's link answers {answer.status}", status=answer.status)
        return answer.body


def _lost(job_id: str, *, retryable: bool) -> JobLost:
    message = f"the endpoint does not know job {job_id} (any more)"
    return JobLost(message, job_id=job_id, retryable=retryable)


def _body(value: Mapping[str, Any]) -> bytes:
    body = json.dumps(value, ensure_ascii=False, allow_nan=False).encode()
    if len(body) > MAX_REQUEST_BYTES:
        largest = max(value["input"], key=lambda field: len(json.dumps(value["input"][field])))
        raise RequestRefused(
            f"the request has {len(body) / 1e6:.1f} MB, an endpoint takes {MAX_REQUEST_BYTES / 1e6:.0f} MB: "
            f"{largest}: {ADVICE.get(largest, PICTURES)}"
        )
    return body
