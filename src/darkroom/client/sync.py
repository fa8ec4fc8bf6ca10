"""The client for scripts and notebooks: blocking calls, callbacks on the caller's own thread."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar

from darkroom.client.address import LOCAL_ENDPOINT, endpoint_url
from darkroom.client.clips import video_input
from darkroom.client.download import save
from darkroom.client.flow import Answer, Call, Flow, NoAnswer, Pause
from darkroom.client.protocol import Polling, Progress, Protocol
from darkroom.client.replies import (
    EditReply,
    EndpointHealth,
    JobHandle,
    JobReply,
    JobStatus,
    Picture,
    ReplyT,
    VideoReply,
    job_reply,
)
from darkroom.client.request import edit_input
from darkroom.client.retry import Retry
from darkroom.client.sources import ImageLike
from darkroom.client.transport import headers, lost, problem, target, timeout

if TYPE_CHECKING:
    import httpx

T = TypeVar("T")


class Client:
    """One endpoint, by URL or by RunPod id. Times in seconds; safe to share between threads.

    Raises ValueError for an address that is none. Every method may raise a `ClientError`.
    """

    def __init__(
        self,
        endpoint: str = LOCAL_ENDPOINT,
        *,
        api_key: str | None = None,
        retry: Retry | None = None,
        polling: Polling | None = None,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        self.endpoint = endpoint_url(endpoint)
        self._protocol = Protocol(retry=retry or Retry(), polling=polling or Polling())
        self._headers = headers(api_key)
        # Imported here: half of the time that `import darkroom.client` would take.
        import httpx

        self._http = httpx.Client(timeout=timeout(), transport=transport)

    def edit(
        self,
        images: Sequence[ImageLike] | ImageLike,
        prompt: str | Sequence[str],
        *,
        progress: Progress | None = None,
        timeout_seconds: float | None = None,
        **fields: Any,
    ) -> EditReply:
        """Edit pictures by instruction and wait for the result; `fields` are those of `image_edit`.

        Raises darkroom.errors.InvalidInput for a bad field before anything is sent, JobFailed, WaitTimeout.
        """
        request = edit_input(images, prompt, fields)
        return self._run(EditReply, request, {}, progress, timeout_seconds)

    def video(
        self,
        init: ImageLike,
        *,
        edges: str | Path | None = None,
        source_video: str | Path | None = None,
        progress: Progress | None = None,
        timeout_seconds: float | None = None,
        **fields: Any,
    ) -> VideoReply:
        """Make a clip and wait for it; `fields` are those of `video_edit`.

        edges: a folder of pictures, a zip, a video, or an address. Raises as `edit`.
        """
        request = video_input(init, edges, source_video, fields)
        return self._run(VideoReply, request, {}, progress, timeout_seconds)

    def run(
        self,
        job_input: Mapping[str, Any],
        *,
        progress: Progress | None = None,
        timeout_seconds: float | None = None,
        **envelope: Any,
    ) -> JobReply:
        """Run a job of any type; `envelope` is what stands beside `input`: webhook, policy, s3Config."""
        return self._run(JobReply, job_input, envelope, progress, timeout_seconds)

    def submit(self, job_input: Mapping[str, Any], **envelope: Any) -> JobHandle:
        """Queue a job and return at once; repeated safely until the endpoint has answered."""
        return self._drive(self._protocol.submit(job_input, envelope))

    def wait(
        self, job: JobHandle | str, *, progress: Progress | None = None, timeout_seconds: float | None = None
    ) -> JobStatus:
        """Wait for a submitted job. Raises JobFailed, WaitTimeout."""
        return self._drive(self._protocol.wait(_id(job), progress, timeout_seconds))

    def status(self, job: JobHandle | str) -> JobStatus:
        """Look once. Raises JobLost where the endpoint does not know the job."""
        return self._drive(self._protocol.status(_id(job)))

    def cancel(self, job: JobHandle | str) -> JobStatus:
        """Take a job back."""
        return self._drive(self._protocol.cancel(_id(job)))

    def health(self) -> EndpointHealth:
        """Counts of jobs and workers."""
        return self._drive(self._protocol.health())

    def download(self, picture: Picture, path: str | Path) -> Path:
        """Write one picture of a reply to `path`, whole and verified or not at all.

        Raises DownloadFailed, ChecksumMismatch.
        """
        return self._drive(save(self._protocol, picture, Path(path)))

    def close(self) -> None:
        """Give the connections back."""
        self._http.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _run(
        self,
        model: type[ReplyT],
        job_input: Mapping[str, Any],
        envelope: Mapping[str, Any],
        progress: Progress | None,
        timeout_seconds: float | None,
    ) -> ReplyT:
        handle, status = self._drive(self._protocol.run(job_input, envelope, progress, timeout_seconds))
        return job_reply(model, status, handle.idempotency_key)

    def _drive(self, flow: Flow[T]) -> T:
        result: Answer | NoAnswer | None = None
        while True:
            try:
                step = flow.send(result)
            except StopIteration as done:
                value: T = done.value
                return value
            result = self._perform(step)

    def _perform(self, step: Call | Pause) -> Answer | NoAnswer | None:
        if isinstance(step, Pause):
            time.sleep(step.seconds)
            return None
        url, sent_headers, follow = target(step, self.endpoint, self._headers)
        while delay := self._protocol.gate.delay():
            time.sleep(delay)
        try:
            answer = self._http.request(
                step.method, url, content=step.body, headers=sent_headers, follow_redirects=follow
            )
        except lost() as error:
            return NoAnswer(problem(error))
        return Answer(answer.status_code, answer.headers, answer.content)


def _id(job: JobHandle | str) -> str:
    return job if isinstance(job, str) else job.id
