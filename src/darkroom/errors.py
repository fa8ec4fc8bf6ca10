"""Every error a job can end with, and whose turn it is next.

    DarkroomError
    ├── BadJob                  the caller must change the request; retrying the same one is pointless
    │   ├── InvalidInput        INVALID_INPUT      a field is missing, unknown, of the wrong type or out of range
    │   ├── UnsupportedType     UNSUPPORTED_TYPE   this worker has no such job type
    │   ├── InputTooLarge       INPUT_TOO_LARGE    a source exceeds a limit of bytes, pixels, frames or characters
    │   ├── UnsafeUrl           UNSAFE_URL         a source address that this worker must not open
    │   ├── DecodeFailed        DECODE_FAILED      a source is not the picture or video that it claims to be
    │   ├── ResultTooLarge      RESULT_TOO_LARGE   the result fits no reply and there is no store to link to
    │   └── Cancelled           CANCELLED          the caller took the job back
    ├── Transient               the same request may succeed later
    │   ├── FetchFailed         FETCH_FAILED       a source did not answer
    │   ├── UploadFailed        UPLOAD_FAILED      the store did not take the result; it is kept for the retry
    │   ├── ModelNotReady       MODEL_NOT_READY    weights are missing, damaged or still loading
    │   ├── TimedOut            TIMEOUT            the job ran out of its time
    │   └── Internal            INTERNAL           a defect of Darkroom; the log has the traceback under the job id
    ├── OutOfMemory             OUT_OF_MEMORY      a smaller input would fit; the worker goes on, restarts on repeat
    └── BrokenWorker
        └── GpuFault            GPU_FAULT          this process is finished: retry elsewhere, restart it
"""

from __future__ import annotations

from typing import Any, ClassVar


class DarkroomError(Exception):
    """An error with a stable code and a sentence that a caller may read.

    `field` names the request field at fault ("images[1]"), `details` holds further JSON values.
    Messages never contain paths of this machine, host names, tracebacks or secrets.
    """

    code: ClassVar[str] = "INTERNAL"
    retryable: ClassVar[bool] = False
    refresh_worker: ClassVar[bool] = False

    def __init__(self, message: str, *, field: str | None = None, details: dict[str, Any] | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.field = field
        self.details = dict(details or {})

    def reply(self) -> dict[str, Any]:
        """The failure as the job API answers it: error, code, retryable, details."""
        details = {**({"field": self.field} if self.field else {}), **self.details}
        reply: dict[str, Any] = {
            "error": f"{self.code}: {self.message}",
            "code": self.code,
            "retryable": self.retryable,
            "details": details,
        }
        if self.refresh_worker:
            reply["refresh_worker"] = True
        return reply


class BadJob(DarkroomError):
    """The caller must change the request."""


class InvalidInput(BadJob):
    """A field is missing, unknown, of the wrong type or out of range."""

    code = "INVALID_INPUT"


class UnsupportedType(BadJob):
    """This worker has no such job type."""

    code = "UNSUPPORTED_TYPE"


class InputTooLarge(BadJob):
    """A source exceeds a limit of bytes, pixels, frames or characters."""

    code = "INPUT_TOO_LARGE"


class UnsafeUrl(BadJob):
    """A source address that this worker must not open."""

    code = "UNSAFE_URL"


class DecodeFailed(BadJob):
    """A source is not the picture or video that it claims to be."""

    code = "DECODE_FAILED"


class ResultTooLarge(BadJob):
    """The result fits no reply and there is no store to link to."""

    code = "RESULT_TOO_LARGE"


class Cancelled(BadJob):
    """The caller took the job back."""

    code = "CANCELLED"


class Transient(DarkroomError):
    """The same request may succeed later."""

    retryable = True


class FetchFailed(Transient):
    """A source did not answer, or not in time."""

    code = "FETCH_FAILED"


class UploadFailed(Transient):
    """The store did not take the result, which is kept for the retry."""

    code = "UPLOAD_FAILED"


class ModelNotReady(Transient):
    """Weights are missing, damaged or still loading."""

    code = "MODEL_NOT_READY"


class TimedOut(Transient):
    """The job ran out of its time."""

    code = "TIMEOUT"


class Internal(Transient):
    """A defect of Darkroom; the log has the traceback under the job id."""

    code = "INTERNAL"


class OutOfMemory(DarkroomError):
    """The accelerator's memory does not hold this job; a smaller input would fit."""

    code = "OUT_OF_MEMORY"


class BrokenWorker(DarkroomError):
    """This process is finished; restart it."""

    retryable = True
    refresh_worker = True


class GpuFault(BrokenWorker):
    """The CUDA context is lost: nothing more can run in this process."""

    code = "GPU_FAULT"
