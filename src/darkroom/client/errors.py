"""What can go wrong between a caller and an endpoint.

    ClientError
    ├── EndpointUnreachable     no answer, no such endpoint, or nothing but server errors
    ├── Unauthorized            the key is missing or wrong (401, 403)
    ├── RateLimited             429 for longer than the caller's patience; `retry_after_seconds`
    ├── RequestRefused          the endpoint will not take this request (400, 413, 422): change it
    ├── BadReply                an answer that is not RunPod's API v2
    ├── WaitTimeout             the caller's patience is over; the job itself goes on
    ├── JobFailed               the job ended without a result; `code`, `retryable`, `details`
    │   ├── JobCancelled        CANCELLED   someone took the job back
    │   ├── JobTimedOut         TIMEOUT     the platform stopped it after its executionTimeout or ttl
    │   └── JobLost             JOB_LOST    the endpoint no longer knows the job; the result may be stored
    └── DownloadFailed          a result could not be fetched
        └── ChecksumMismatch    what arrived is not what the worker made
"""

from __future__ import annotations

from typing import Any, ClassVar


class ClientError(Exception):
    """Base of every error of the client. `retryable`: may the same call succeed later?"""

    retryable: bool = False

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


class EndpointUnreachable(ClientError):
    """No answer, no such endpoint, or nothing but server errors; `status` is the last HTTP status, if any."""

    retryable = True

    def __init__(self, message: str, *, status: int | None = None) -> None:
        super().__init__(message)
        self.status = status


class Unauthorized(ClientError):
    """The API key is missing, wrong, or not allowed at this endpoint."""


class RateLimited(ClientError):
    """The endpoint kept answering 429 for longer than the client waits."""

    retryable = True

    def __init__(self, message: str, *, retry_after_seconds: float) -> None:
        super().__init__(message)
        self.retry_after_seconds = retry_after_seconds


class RequestRefused(ClientError):
    """The endpoint refused the request itself; `status` is the HTTP status, 0 where nothing was sent."""

    def __init__(self, message: str, *, status: int = 0) -> None:
        super().__init__(message)
        self.status = status


class BadReply(ClientError):
    """An answer that is not what RunPod's API v2 gives: probably not an endpoint."""


class WaitTimeout(ClientError):
    """The wait was longer than asked for; the job goes on and `job_id` can be waited for again."""

    retryable = True

    def __init__(self, message: str, *, job_id: str) -> None:
        super().__init__(message)
        self.job_id = job_id


class JobFailed(ClientError):
    """A job that ended without a result.

    `code` is one of darkroom.errors' codes or the class's own; `retryable` says whether the same
    input may succeed; `details` holds JSON values such as the field at fault.
    """

    default_code: ClassVar[str] = "INTERNAL"

    def __init__(
        self,
        message: str,
        *,
        job_id: str,
        code: str | None = None,
        retryable: bool = False,
        details: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(message)
        self.job_id = job_id
        self.code = code or self.default_code
        self.retryable = retryable
        self.details = dict(details or {})


class JobCancelled(JobFailed):
    """Someone took the job back."""

    default_code = "CANCELLED"


class JobTimedOut(JobFailed):
    """The platform stopped the job: executionTimeout, or ttl while it was queued."""

    default_code = "TIMEOUT"


class JobLost(JobFailed):
    """The endpoint no longer knows this job. Submitting it again under the same key is safe."""

    default_code = "JOB_LOST"


class DownloadFailed(ClientError):
    """A result could not be fetched or read; `status` is the last HTTP status, if any."""

    def __init__(self, message: str, *, status: int | None = None) -> None:
        super().__init__(message)
        self.status = status


class ChecksumMismatch(DownloadFailed):
    """What arrived does not have the SHA-256 that the worker gave."""
