"""The client side: RunPod's API v2. docs/local-endpoint.md lists what was chosen where its documents are silent."""

from __future__ import annotations

import json
from typing import Any

from fastapi import APIRouter, Depends, HTTPException, Request, Response

from darkroom.errors import InvalidInput
from darkroom.local.bodies import parse_run, parse_wait
from darkroom.local.config import MIB, EndpointConfig
from darkroom.local.dispatch import Dispatch
from darkroom.local.guard import Guard
from darkroom.local.job import Job, json_object, status_body
from darkroom.local.receive import read_body
from darkroom.local.roster import Roster


def client_routes(config: EndpointConfig, dispatch: Dispatch, guard: Guard) -> APIRouter:
    """/run, /runsync, /status, /stream, /health, /cancel, /retry and /purge-queue of one endpoint."""
    routes = APIRouter(prefix=f"/v2/{config.endpoint_id}", dependencies=[Depends(guard.client)])

    @routes.post("/run")
    async def run(request: Request) -> Response:
        return answer(brief(await _submit(request, config, dispatch, sync=False)))

    @routes.post("/runsync")
    async def runsync(request: Request) -> Response:
        seconds = _checked_wait(request, config)
        job = await _submit(request, config, dispatch, sync=True)
        return answer(status_body(await dispatch.ended(job.id, seconds) or job))

    # The platform's documents and clients use GET; it answers to POST as well, and so do we.
    @routes.api_route("/status/{job_id}", methods=["GET", "POST"])
    async def status(job_id: str) -> Response:
        return answer(status_body(_known(dispatch, job_id)))

    @routes.api_route("/stream/{job_id}", methods=["GET", "POST"])
    async def stream(job_id: str) -> Response:
        # The state first: pieces never arrive after a final state, so "final and no pieces" means that was all.
        job = _known(dispatch, job_id)
        chunks = dispatch.queue.read_chunks(job_id)
        return answer(json_object({"id": job.id, "status": job.status}, {"stream": f"[{', '.join(chunks)}]"}))

    @routes.post("/cancel/{job_id}")
    async def cancel(job_id: str) -> Response:
        dispatch.cancel(job_id)
        return answer(brief(_known(dispatch, job_id)))

    @routes.post("/retry/{job_id}")
    async def retry(job_id: str) -> Response:
        job = _known(dispatch, job_id)
        again = dispatch.retry(job_id)
        if again is None:
            raise HTTPException(400, f"only FAILED and TIMED_OUT jobs can be retried; this one is {job.status}")
        return answer(brief(again))

    @routes.post("/purge-queue")
    async def purge_queue() -> Response:
        return answer(json.dumps({"removed": dispatch.purge(), "status": "completed"}))

    @routes.get("/health")
    async def health() -> Response:
        return answer(json.dumps(health_report(dispatch)))

    return routes


async def _submit(request: Request, config: EndpointConfig, dispatch: Dispatch, *, sync: bool) -> Job:
    limit = config.limits.runsync_bytes if sync else config.limits.run_bytes
    data = await read_body(request, limit)
    if data is None:
        raise HTTPException(413, f"the request exceeds {limit / MIB:g} MiB; send large sources as links")
    try:
        new = parse_run(data, config, sync=sync)
    except InvalidInput as bad:
        raise HTTPException(400, bad.message) from None
    if dispatch.closing.is_set():
        raise HTTPException(503, "the endpoint is stopping", headers={"Retry-After": "5"})
    _refuse_a_flood(config, dispatch)
    return dispatch.submit(new)


def _refuse_a_flood(config: EndpointConfig, dispatch: Dispatch) -> None:
    load = dispatch.queue.load()
    waiting = load.queued + load.queued_low_priority
    if waiting > config.limits.queue_free and waiting > config.workers_max * config.limits.queue_per_worker:
        raise HTTPException(429, f"{waiting} jobs wait already; try again later", headers={"Retry-After": "5"})


def _checked_wait(request: Request, config: EndpointConfig) -> float:
    try:
        return parse_wait(request.query_params.get("wait"), config)
    except InvalidInput as bad:
        raise HTTPException(400, bad.message) from None


def _known(dispatch: Dispatch, job_id: str) -> Job:
    job = dispatch.queue.get(job_id)
    if job is None:
        raise HTTPException(404, "there is no such job, or its result is no longer kept")
    return job


def brief(job: Job) -> str:
    """The short reply of /run, /cancel and /retry."""
    return json_object({"id": job.id, "status": job.status}, {})


def answer(text: str) -> Response:
    """A reply that is JSON text already."""
    return Response(text, media_type="application/json")


def health_report(dispatch: Dispatch) -> dict[str, Any]:
    """The body of /health; `problem`, which the platform does not have, says why no worker gets to its first job."""
    load, totals = dispatch.queue.load(), dispatch.queue.totals()
    problem = {"problem": dispatch.roster.problem} if dispatch.roster.unhealthy else {}
    return {
        "jobs": {
            "completed": totals["completed"],
            "failed": totals["failed"],
            "inProgress": load.running,
            "inQueue": load.queued + load.queued_low_priority,
            "retried": totals["retried"],
        },
        "workers": worker_counts(dispatch.roster),
        **problem,
    }


def worker_counts(roster: Roster) -> dict[str, int]:
    """Living workers by state. `ready` are those that can take or work on jobs: idle and running together."""
    booting = sum(seat.booting for seat in roster)
    running = sum(bool(seat.held) for seat in roster)
    idle = sum(not seat.booting and not seat.held and not seat.leaving for seat in roster)
    return {"idle": idle, "initializing": booting, "ready": idle + running, "running": running,
            "throttled": 0, "unhealthy": roster.unhealthy}
