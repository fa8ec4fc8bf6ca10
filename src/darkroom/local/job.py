"""One job as the queue keeps it, and as a client sees it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, Literal

from darkroom.errors import DarkroomError

Status = Literal["IN_QUEUE", "IN_PROGRESS", "COMPLETED", "FAILED", "CANCELLED", "TIMED_OUT"]
FINAL: frozenset[Status] = frozenset({"COMPLETED", "FAILED", "CANCELLED", "TIMED_OUT"})
RETRYABLE: frozenset[Status] = frozenset({"FAILED", "TIMED_OUT"})


@dataclass(frozen=True)
class NewJob:
    """What a client asks for. `input` and `s3_config` are JSON texts, times are seconds."""

    id: str
    input: str
    execution_timeout: float
    ttl: float
    keep: float
    sync: bool = False
    low_priority: bool = False
    webhook: str | None = None
    s3_config: str | None = None


@dataclass(frozen=True)
class Job:
    """A row of the queue. Instants are Unix seconds, texts that came as JSON stay JSON texts."""

    id: str
    status: Status
    sync: bool
    low_priority: bool
    webhook: str | None
    execution_timeout: float
    ttl: float
    queued_at: float
    started_at: float | None
    ended_at: float | None
    worker: str | None
    losses: int
    progress: str | None
    output: str | None
    error: str | None
    webhook_tries: int

    @property
    def final(self) -> bool:
        """Whether the job has ended."""
        return self.status in FINAL

    @property
    def delay_ms(self) -> int | None:
        """Milliseconds between queue and hand-out, or the end of a job that was never handed out."""
        until = self.started_at or self.ended_at
        return None if until is None else max(0, round(1000 * (until - self.queued_at)))

    @property
    def execution_ms(self) -> int | None:
        """Milliseconds between hand-out and end."""
        if self.started_at is None or self.ended_at is None:
            return None
        return max(0, round(1000 * (self.ended_at - self.started_at)))


@dataclass(frozen=True)
class Work:
    """A job in a worker's hands, with what it must work on (JSON texts)."""

    job: Job
    input: str
    s3_config: str | None


@dataclass(frozen=True)
class Outcome:
    """How a job ended: `output` is a JSON text, `error` a sentence for a person."""

    status: Status
    output: str | None = None
    error: str | None = None


def failure(error: DarkroomError, status: Status = "FAILED") -> Outcome:
    """The outcome of a job that the endpoint itself ends, in the form of a failure of the worker's."""
    reply = error.reply()
    return Outcome(status, output=json.dumps({k: reply[k] for k in ("code", "retryable", "details")}),
                   error=reply["error"])


def status_body(job: Job) -> str:
    """The JSON text of /status, and of the webhook."""
    fields: dict[str, Any] = {"id": job.id, "status": job.status}
    if job.delay_ms is not None:
        fields["delayTime"] = job.delay_ms
    if job.execution_ms is not None:
        fields["executionTime"] = job.execution_ms
    if job.worker is not None:
        fields["workerId"] = job.worker
    if job.error is not None:
        fields["error"] = job.error
    shown = job.output if job.final else job.progress
    return json_object(fields, {} if shown is None else {"output": shown})


def work_body(work: Work) -> str:
    """The JSON text that job-take hands to a worker."""
    raw = {"input": work.input, **({} if work.s3_config is None else {"s3Config": work.s3_config})}
    fields = {"id": work.job.id, **({} if work.job.webhook is None else {"webhook": work.job.webhook})}
    return json_object(fields, raw)


def json_object(fields: dict[str, Any], raw: dict[str, str]) -> str:
    """A JSON object of `fields` and of `raw` members that are JSON texts already.

    Inputs and outputs are megabytes of base64: they are parsed once, on arrival, and passed on as text.
    """
    members = [f"{json.dumps(name)}: {json.dumps(value)}" for name, value in fields.items()]
    members += [f"{json.dumps(name)}: {text}" for name, text in raw.items()]
    return "{" + ", ".join(members) + "}"
