"""What an endpoint answers, typed. Unknown fields are kept, not refused: a newer worker may say more."""

from __future__ import annotations

from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from darkroom.client.errors import BadReply

Status = Literal["IN_QUEUE", "IN_PROGRESS", "COMPLETED", "FAILED", "CANCELLED", "TIMED_OUT"]
TERMINAL = frozenset({"COMPLETED", "FAILED", "CANCELLED", "TIMED_OUT"})


class _Reply(BaseModel):
    model_config = ConfigDict(extra="allow", frozen=True, populate_by_name=True, protected_namespaces=())


class JobHandle(_Reply):
    """A submitted job: enough to wait for it, or to submit it again without paying twice."""

    id: str
    status: str = "IN_QUEUE"
    idempotency_key: str | None = None


class JobStatus(_Reply):
    """RunPod's status of a job; times in milliseconds. While a job runs, `output` is its progress."""

    id: str
    status: str
    output: Any = None
    error: Any = None
    delay_ms: float | None = Field(default=None, alias="delayTime")
    execution_ms: float | None = Field(default=None, alias="executionTime")
    worker_id: str | None = Field(default=None, alias="workerId")
    problem: str | None = None
    """Why no worker takes a queued job; the client asks /health for it."""

    @property
    def done(self) -> bool:
        """True once nothing more will happen to the job."""
        return self.status in TERMINAL


class Picture(_Reply):
    """One picture of a result: a link or a data URI, and what it was made from."""

    url: str | None = None
    key: str | None = None
    sha256: str | None = None
    width: int | None = None
    height: int | None = None
    seed: int | None = None
    prompt: str | None = None
    expires_at: Any = None


class Cost(_Reply):
    """What the job used; `usd` is None where no price is known."""

    gpu: str | None = None
    gpu_seconds: float | None = None
    usd: float | None = None


class ModelUsed(_Reply):
    """The model that answered."""

    id: str | None = None
    revision: str | None = None
    precision: str | None = None


class JobReply(_Reply):
    """The fields that every Darkroom recipe answers with, and where and how long the job ran."""

    job_id: str = ""
    idempotency_key: str | None = None
    worker_id: str | None = None
    delay_ms: float | None = None
    """Milliseconds in the queue, by the platform's clock."""
    execution_ms: float | None = None
    """Milliseconds on a worker, by the platform's clock."""
    manifest_url: str | None = None
    warnings: list[Any] = []
    seed: int | None = None
    model: ModelUsed = ModelUsed()
    timings: dict[str, Any] = {}
    cost: Cost = Cost()

    @property
    def cold(self) -> bool:
        """True when the worker had to load a model for this job."""
        return bool(self.timings.get("cold", False))


class EditReply(JobReply):
    """The answer to an `image_edit`: its pictures in the order of prompts × num_images."""

    image_url: str | None = None
    images: list[Picture] = []
    failed: list[dict[str, Any]] = []
    """Prompts of a list that could not run: index, prompt, error, code, retryable."""


class ClipFile(Picture):
    """One file of a clip, under its name in the job's folder; `url` is None where the store makes no links."""

    name: str = ""
    frame: int | None = None


class VideoReply(JobReply):
    """The answer to a `video_edit`: the clip, what was measured, and every frame."""

    video_url: str | None = None
    files: list[ClipFile] = []
    frames: list[ClipFile] = []
    num_frames: int | None = None
    fps: float | None = None



class JobCounts(_Reply):
    """Jobs by state, as /health counts them."""

    completed: int = 0
    failed: int = 0
    in_progress: int = Field(default=0, alias="inProgress")
    in_queue: int = Field(default=0, alias="inQueue")
    retried: int = 0


class WorkerCounts(_Reply):
    """Workers by state, as /health counts them."""

    idle: int = 0
    initializing: int = 0
    ready: int = 0
    running: int = 0
    throttled: int = 0
    unhealthy: int = 0

    @property
    def alive(self) -> int:
        """Workers that exist or are being started; `ready` counts idle and running ones again.

        RunPod counts a worker that sleeps under FlashBoot as idle too: above 0 says little, 0 says none.
        """
        return max(self.ready, self.idle + self.running) + self.initializing


class EndpointHealth(_Reply):
    """GET /health."""

    jobs: JobCounts = JobCounts()
    workers: WorkerCounts = WorkerCounts()
    problem: str | None = None
    """Said by local endpoints only."""

    @property
    def trouble(self) -> str | None:
        """Why queued jobs do not start, as far as this tells; None while some worker may take them."""
        if self.problem or self.workers.alive:
            return self.problem
        if self.workers.unhealthy:
            return f"{self.workers.unhealthy} workers are unhealthy; their log says why"
        if self.workers.throttled:
            return f"{self.workers.throttled} workers are throttled: no card of the endpoint's kinds is free"
        return None


ReplyT = TypeVar("ReplyT", bound=_Reply)


def read(model: type[ReplyT], value: Any) -> ReplyT:
    """`value` as `model`. Raises BadReply where a field that matters has the wrong form."""
    try:
        return model.model_validate(value)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"]) or "the answer"
        raise BadReply(f"the endpoint's answer is not what API v2 gives: {where}: {first['msg']}") from None


def job_reply(model: type[ReplyT], status: JobStatus, idempotency_key: str | None = None) -> ReplyT:
    """A completed job's output as `model`, joined with what the platform says of its run."""
    if not isinstance(status.output, dict):
        raise BadReply(f"job {status.id} answered {type(status.output).__name__}, not an object")
    platform = {
        "job_id": status.id,
        "idempotency_key": idempotency_key,
        "worker_id": status.worker_id,
        "delay_ms": status.delay_ms,
        "execution_ms": status.execution_ms,
    }
    return read(model, {**status.output, **platform})
