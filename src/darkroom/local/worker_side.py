"""The worker side: what the unmodified SDK loop asks for, at addresses of the platform's form."""

from __future__ import annotations

import asyncio
import json
import logging
from dataclasses import dataclass
from typing import Any

from fastapi import APIRouter, Depends, HTTPException, Request, Response

from darkroom.errors import Internal, ResultTooLarge
from darkroom.local.api import answer
from darkroom.local.config import MIB, EndpointConfig
from darkroom.local.dispatch import Dispatch
from darkroom.local.guard import Guard
from darkroom.local.job import Outcome, Work, failure, json_object, work_body
from darkroom.local.receive import read_body
from darkroom.local.roster import Seat

log = logging.getLogger(__name__)
MAX_BATCH = 1_000


def worker_environment(config: EndpointConfig, guard: Guard, base: str, worker: str) -> dict[str, str]:
    """The variables that turn a handler script into a worker of this endpoint.

    `base` is the endpoint's address as seen from this machine. The SDK fills in $ID and $RUNPOD_POD_ID,
    appends "&…" to the first two addresses, and derives job-stop and job-take-batch from the first.
    """
    at = f"{base}/v2/{config.endpoint_id}"
    token = f"?token={guard.worker_token}"
    return {
        "RUNPOD_WEBHOOK_GET_JOB": f"{at}/job-take/$ID{token}",
        "RUNPOD_WEBHOOK_POST_OUTPUT": f"{at}/job-done/$RUNPOD_POD_ID/$ID{token}",
        "RUNPOD_WEBHOOK_POST_STREAM": f"{at}/job-stream/$RUNPOD_POD_ID/$ID{token}",
        "RUNPOD_WEBHOOK_PING": f"{at}/ping/$RUNPOD_POD_ID{token}",
        "RUNPOD_PING_INTERVAL": str(1000 * config.ping_interval_seconds),
        "RUNPOD_AI_API_KEY": guard.worker_token,  # without one the SDK sends no pings
        "RUNPOD_POD_ID": worker,
        "RUNPOD_ENDPOINT_ID": config.endpoint_id,
        "RUNPOD_SKIP_AUTO_SYSTEM_CHECKS": "true",
        "RUNPOD_SKIP_GPU_CHECK": "true",
        "PYTHONUNBUFFERED": "1",
    }


def worker_routes(config: EndpointConfig, dispatch: Dispatch, guard: Guard) -> APIRouter:
    """job-take, job-take-batch, job-stop, job-done, job-stream and ping of one endpoint."""
    routes = APIRouter(prefix=f"/v2/{config.endpoint_id}", dependencies=[Depends(guard.worker)])

    def seat_of(worker: str) -> Seat:
        seat = dispatch.roster.get(worker)
        if seat is None:
            raise HTTPException(404, "this worker was given up")
        return seat

    async def take(request: Request, worker: str, count: int, job_in_progress: str) -> list[Work]:
        gone = asyncio.ensure_future(_hung_up(request))
        try:
            return await dispatch.take(seat_of(worker), count, busy=job_in_progress == "1",
                                       seconds=config.poll_seconds, gone=gone)
        finally:
            gone.cancel()

    @routes.get("/job-take/{worker}")
    async def job_take(request: Request, worker: str, job_in_progress: str = "0") -> Response:
        works = await take(request, worker, 1, job_in_progress)
        return answer(work_body(works[0])) if works else Response(status_code=204)

    @routes.get("/job-take-batch/{worker}")
    async def job_take_batch(request: Request, worker: str, batch_size: int = 1,
                             job_in_progress: str = "0") -> Response:
        works = await take(request, worker, max(1, min(MAX_BATCH, batch_size)), job_in_progress)
        return answer(f"[{', '.join(map(work_body, works))}]") if works else Response(status_code=204)

    @routes.get("/job-stop/{worker}")
    async def job_stop(worker: str) -> Response:
        ids = await dispatch.stops(seat_of(worker), config.poll_seconds)
        return answer(json.dumps({"jobsToStop": ids})) if ids else Response(status_code=204)

    @routes.get("/ping/{worker}")
    async def ping(worker: str, status: str = "", check: str = "", reason: str = "") -> Response:
        seat = seat_of(worker)
        seat.heard_at = dispatch.roster.now()
        if status == "unhealthy":
            seat.ailment = f"{check}: {reason}"
            log.warning("worker %s is unfit: %s", worker, seat.ailment)
        return answer("{}")

    @routes.post("/job-stream/{worker}/{job}")
    async def job_stream(worker: str, job: str, request: Request) -> Response:
        seat = seat_of(worker)
        message = await read_message(request, config.limits.runsync_bytes)
        if message.fault is not None:
            raise HTTPException(400, message.fault.error)
        chunk = json_object({"output": message.body.get("output")}, {})
        return answer(json.dumps({"accepted": dispatch.queue.add_chunk(job, seat.worker, chunk)}))

    @routes.post("/job-done/{worker}/{job}")
    async def job_done(worker: str, job: str, request: Request) -> Response:
        seat = seat_of(worker)
        limit = config.limits.runsync_bytes if job.startswith("sync-") else config.limits.run_bytes
        message = await read_message(request, limit)
        if message.body.get("status") == "IN_PROGRESS":
            accepted = _progress(dispatch, seat, job, message)
        else:
            accepted = dispatch.finish(seat, job, message.fault or outcome_of(message.body))
        if message.body.get("stopPod") is True:
            seat.refresh = True
            dispatch.changed.set()
        # Always 200: the SDK repeats what was refused, and holds the slot meanwhile.
        return answer(json.dumps({"accepted": accepted}))

    return routes


async def _hung_up(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


@dataclass(frozen=True)
class Message:
    """What a worker posted; `fault` is the failure that stands for a result that the platform would lose."""

    body: dict[str, Any]
    fault: Outcome | None = None


async def read_message(request: Request, limit: int) -> Message:
    """The posted JSON object of at most `limit` bytes, or what is wrong with it."""
    data = await read_body(request, limit)
    if data is None:
        return Message({}, failure(ResultTooLarge(f"the result exceeds {limit / MIB:g} MiB; RunPod would lose it")))
    try:
        body = json.loads(data)
    except (ValueError, RecursionError):
        body = None
    if not isinstance(body, dict):
        return Message({}, failure(Internal("the worker's result is no JSON object; RunPod would lose it")))
    try:
        json.dumps(body, allow_nan=False)
    except ValueError:
        return Message(body, failure(Internal("the result holds NaN or Infinity; no JSON, RunPod would lose it")))
    return Message(body)


def _progress(dispatch: Dispatch, seat: Seat, job: str, message: Message) -> bool:
    if message.fault is not None:
        log.warning("worker %s: progress of %s dropped: %s", seat.worker, job, message.fault.error)
        return False
    return dispatch.queue.progress(job, seat.worker, json.dumps(message.body.get("output")))


def outcome_of(body: dict[str, Any]) -> Outcome:
    """How a job-done message ends its job: FAILED if it has an `error`, which must be a string."""
    output = json.dumps(body["output"]) if "output" in body else None
    error = body.get("error")
    if not error:
        return Outcome("COMPLETED", output=output)
    if not isinstance(error, str):
        return failure(Internal("the worker's 'error' is no string; RunPod would lose this job",
                                details={"error": error}))
    # Half of a surrogate pair is valid JSON but no text that could be stored.
    return Outcome("FAILED", output=output, error=error.encode(errors="backslashreplace").decode())
