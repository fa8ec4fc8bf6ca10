"""An endpoint that answers like RunPod's API v2 and misbehaves on demand; counts what it would charge.

Scripted faults go by route: `endpoint.script("run", "429:0.2", "500", "lost")` makes the next three calls
of /run go wrong in that order. A job misbehaves by its prompt: `fail CODE`, `crash`, `flaky 2` (fails
twice, then works), `forgotten` (unknown once submitted), `damaged` (wrong bytes once), `wrong` (wrong
bytes always), `expired` (its first link answers 404), `slow 3` (seconds), `steps 4` (tells each step twice, at the
pace of who asks). `most_jobs` keeps the jobs after so many queued until it is raised.
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
import threading
import time
from collections import Counter, defaultdict, deque
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from typing import Any

import uvicorn
from fastapi import FastAPI, Request, Response
from PIL import Image
from starlette.types import ASGIApp, Receive, Scope, Send

from darkroom import errors

KNOWN = {kind.code: kind for kind in [*errors.BadJob.__subclasses__(), *errors.Transient.__subclasses__()]}
KNOWN |= {"OUT_OF_MEMORY": errors.OutOfMemory, "GPU_FAULT": errors.GpuFault}


def picture(key: str) -> bytes:
    """A PNG whose colour depends on the key."""
    digest = hashlib.sha256(key.encode()).digest()
    buffer = io.BytesIO()
    Image.new("RGB", (24, 16), (digest[0], digest[1], digest[2])).save(buffer, "PNG")
    return buffer.getvalue()


class FakeEndpoint:
    """State and behaviour; `url` is set once it listens. Charges are counted per idempotency key."""

    def __init__(self, *, job_seconds: float = 0.0, api_key: str | None = None) -> None:
        self.url = ""
        self.job_seconds = job_seconds
        self.api_key = api_key
        self.jobs: dict[str, dict[str, Any]] = {}
        self.charges: Counter[str] = Counter()
        self.calls: Counter[str] = Counter()
        self.tokens: list[str | None] = []
        self.fetched: list[float] = []
        self.busiest = 0
        self.stuck = False
        self.most_jobs: int | None = None
        self.failed_prompts: list[dict[str, Any]] = []
        self.cold = True
        self.health: dict[str, Any] = {"jobs": {"completed": 0, "inQueue": 0}, "workers": {"idle": 0, "new": 1}}
        self._runs: Counter[str] = Counter()
        self._served: Counter[str] = Counter()
        self._scripts: dict[str, deque[str]] = defaultdict(deque)
        self._started_by_key: dict[str, float] = {}

    def script(self, route: str, *faults: str) -> None:
        """Faults of the next calls of a route: 429:seconds, a status, `lost` (acted upon, no answer), `html`."""
        self._scripts[route].extend(faults)

    def next_fault(self, route: str) -> str | None:
        self.calls[route] += 1
        return self._scripts[route].popleft() if self._scripts[route] else None

    @property
    def paid(self) -> int:
        """Jobs that a GPU worked on."""
        return sum(self.charges.values())

    @property
    def waiting(self) -> int:
        """Jobs beyond `most_jobs` that have been asked for: their caller has the answer to /run."""
        return sum("asked" in job for job in list(self.jobs.values())[self.most_jobs :])

    # -- jobs -----------------------------------------------------------------------------------

    def accept(self, body: dict[str, Any]) -> dict[str, Any]:
        job_id = f"job-{len(self.jobs) + 1}"
        job_input = body["input"]
        key = job_input["idempotency_key"]
        self._runs[key] += 1
        self.jobs[job_id] = {"id": job_id, "key": key, "input": job_input, "run": self._runs[key], "body": body}
        # A worker that knows the key replays the stored result, and no GPU works twice.
        fails = self._failure(self.jobs[job_id])
        if key not in self._started_by_key:
            self._started_by_key[key] = time.monotonic()
            if not fails:
                self.charges[key] += 1
        elif not fails and not self.charges[key]:
            self.charges[key] += 1
        self.busiest = max(self.busiest, sum(not self._finished(job) for job in self.jobs.values()))
        return {"id": job_id, "status": "IN_QUEUE"}

    def _seconds(self, job: dict[str, Any]) -> float:
        word, _, rest = str(job["input"].get("prompt", "")).partition(" ")
        return float(rest) if word == "slow" else self.job_seconds

    def _finished(self, job: dict[str, Any]) -> bool:
        if job.get("cancelled"):
            return True
        return time.monotonic() - self._started_by_key[job["key"]] >= self._seconds(job)

    def _failure(self, job: dict[str, Any]) -> dict[str, Any] | None:
        word, _, rest = str(job["input"].get("prompt", "")).partition(" ")
        if word == "fail":
            return KNOWN[rest]("as asked for", field="prompt").reply()
        if word == "crash":
            info = {"error_type": "<class 'ValueError'>", "error_message": "boom", "error_traceback": "secret"}
            return {"error": json.dumps(info)}
        if word == "flaky" and job["run"] <= int(rest):
            return errors.ModelNotReady("still loading").reply()
        return None

    def status(self, job_id: str) -> dict[str, Any] | None:
        job = self.jobs.get(job_id)
        if job is None or (job["input"].get("prompt") == "forgotten" and job["run"] == 1):
            return None
        common = {"id": job_id, "workerId": "worker-1", "delayTime": 5, "executionTime": 40}
        if job.get("cancelled"):
            return {**common, "status": "CANCELLED"}
        if self.stuck:
            return {"id": job_id, "status": "IN_QUEUE"}
        job["asked"] = job.get("asked", 0) + 1
        if self.most_jobs is not None and int(job_id.partition("-")[2]) > self.most_jobs:
            return {"id": job_id, "status": "IN_QUEUE"}
        word, _, total = str(job["input"].get("prompt", "")).partition(" ")
        if word == "steps" and (step := (job["asked"] - 1) // 2) < int(total):
            return {**common, "status": "IN_PROGRESS", "output": {"stage": "denoise", "done": step, "total": 4}}
        if not self._finished(job):
            done = (time.monotonic() - self._started_by_key[job["key"]]) / self._seconds(job)
            step = int(4 * done)
            return {**common, "status": "IN_PROGRESS", "output": {"stage": "denoise", "done": step, "total": 4}}
        if failure := self._failure(job):
            error = failure.pop("error")
            return {**common, "status": "FAILED", "error": error, "output": failure or None}
        return {**common, "status": "COMPLETED", "output": self._output(job)}

    def _output(self, job: dict[str, Any]) -> dict[str, Any]:
        if job["input"]["type"] == "video_edit":
            return self._clip(job)
        if job["input"]["type"] != "image_edit":
            return {"ok": True, "timings": {"total_ms": 1.0}}
        data = picture(job["key"])
        url = f"{self.url.replace('/v2/', '/files/')}/{job['id']}.png"
        if job["input"].get("delivery") == "base64":
            url = "data:image/png;base64," + base64.b64encode(data).decode()
        cold, self.cold = self.cold, False
        image = {
            "url": url, "key": f"{job['id']}/image_0000.png", "sha256": hashlib.sha256(data).hexdigest(),
            "width": 24, "height": 16, "seed": 7, "prompt": str(job["input"]["prompt"]), "expires_at": None,
        }
        return {
            "image_url": url, "images": [image], "manifest_url": None, "seed": 7, "warnings": [],
            "failed": self.failed_prompts,
            "model": {"id": "fake", "revision": None, "precision": "none"}, "of_tomorrow": {"x": 1},
            "timings": {"cold": cold, "queue_ms": 5.0, "load_ms": 30.0 if cold else 0.0, "fetch_ms": 1.0,
                        "encode_ms": 2.0, "denoise_ms": 20.0, "decode_ms": 3.0, "upload_ms": 1.0, "total_ms": 60.0},
            "cost": {"gpu": "NVIDIA L4", "gpu_seconds": 0.04, "usd": 0.04 * 0.00019},
        }

    def _clip(self, job: dict[str, Any]) -> dict[str, Any]:
        """Two files as data and a frame as a link."""

        def line(name: str, data: bytes, url: str | None = None, **about: Any) -> dict[str, Any]:
            inline = f"data:application/octet-stream;base64,{base64.b64encode(data).decode()}"
            return {"name": name, "url": url or inline, "key": f"{job['id']}/{name}",
                    "sha256": hashlib.sha256(data).hexdigest(), **about}  # fmt: skip

        link = f"{self.url.replace('/v2/', '/files/')}/{job['id']}.png"
        return {
            "files": [line("video.mp4", b"clip " + job["key"].encode()), line("metrics.csv", b"frame\n1\n")],
            "frames": [line("frames/frame_0000.png", picture(job["key"]), link, frame=0)],
            "num_frames": 1, "fps": 8.0, "seed": 7, "warnings": ["a word"], "timings": {"total_ms": 60.0},
        }  # fmt: skip

    def file(self, job_id: str) -> tuple[int, bytes]:
        job = self.jobs[job_id]
        data = picture(job["key"])
        word = job["input"].get("prompt")
        self._served[job["key"]] += 1
        first = self._served[job["key"]] == 1
        if word == "expired" and job["run"] == 1:
            return 404, b""
        return 200, b"damaged" if word == "wrong" or (word == "damaged" and first) else data


LOST = 299
"""A status that no endpoint gives: the answer is cut off on its way."""


class _Lost:
    """Lets the app act on a call, then cuts the connection in the middle of the answer."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        messages: list[Any] = []

        async def keep(message: Any) -> None:
            messages.append(message)

        await self._app(scope, receive, keep)
        if any(message.get("status") == LOST for message in messages):
            await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"1000")]})
            await send({"type": "http.response.body", "body": b"{", "more_body": False})
            return
        for message in messages:
            await send(message)


def build(endpoints: dict[str, FakeEndpoint]) -> ASGIApp:
    """The app of all fake endpoints, by the name in their address."""
    app = FastAPI()

    def answer(value: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
        return Response(json.dumps(value), status, headers, "application/json")

    def fault_of(endpoint: FakeEndpoint, route: str, request: Request) -> Response | None:
        endpoint.tokens.append(request.headers.get("authorization"))
        if endpoint.api_key and request.headers.get("authorization") != f"Bearer {endpoint.api_key}":
            return answer({"error": "wrong key"}, 401)
        fault = endpoint.next_fault(route)
        if fault is None or fault == "lost":
            return None if fault is None else Response(status_code=LOST)
        if fault == "html":
            return Response("<html>", media_type="text/html")
        status, _, seconds = fault.partition(":")
        return answer({"error": f"scripted {status}"}, int(status), {"Retry-After": seconds} if seconds else None)

    @app.post("/v2/{name}/run")
    async def run(name: str, request: Request) -> Response:
        if name not in endpoints:
            return answer({"error": "no such endpoint"}, 404)
        fault = fault_of(endpoints[name], "run", request)
        if fault is not None and fault.status_code != LOST:
            return fault
        reply = answer(endpoints[name].accept(await request.json()))
        return fault or reply

    @app.get("/v2/{name}/status/{job_id}")
    async def status(name: str, job_id: str, request: Request) -> Response:
        if fault := fault_of(endpoints[name], "status", request):
            return fault
        value = endpoints[name].status(job_id)
        return answer({"error": "job not found"}, 404) if value is None else answer(value)

    @app.post("/v2/{name}/cancel/{job_id}")
    async def cancel(name: str, job_id: str, request: Request) -> Response:
        if fault := fault_of(endpoints[name], "cancel", request):
            return fault
        if job_id not in endpoints[name].jobs:
            return answer({"error": "job not found"}, 404)
        endpoints[name].jobs[job_id]["cancelled"] = True
        return answer({"id": job_id, "status": "CANCELLED"})

    @app.get("/v2/{name}/health")
    async def health(name: str, request: Request) -> Response:
        if name not in endpoints:
            return answer({"error": "no such endpoint"}, 404)
        if fault := fault_of(endpoints[name], "health", request):
            return fault
        return answer(endpoints[name].health)

    @app.get("/files/{name}/{job_id}.png")
    async def files(name: str, job_id: str, request: Request) -> Response:
        endpoint = endpoints[name]
        endpoint.tokens.append(request.headers.get("authorization"))
        endpoint.fetched.append(time.monotonic())
        if fault := endpoint.next_fault("file"):
            if fault == "gzip":
                return Response(b"not gzip", headers={"Content-Encoding": "gzip"})
            code, _, seconds = fault.partition(":")
            return Response(status_code=int(code), headers={"Retry-After": seconds} if seconds else None)
        status, data = endpoint.file(job_id)
        return Response(data, status, media_type="image/png")

    return _Lost(app)


class FakeServer:
    """One server on a free port of the loopback address for all fake endpoints of a run of pytest."""

    def __init__(self) -> None:
        self.endpoints: dict[str, FakeEndpoint] = {}
        self._names = count(1)
        config = uvicorn.Config(build(self.endpoints), port=0, log_level="critical", lifespan="off", ws="none")
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._server.run)
        self._thread.start()
        while not self._server.started:
            time.sleep(0.005)
        self.address = f"http://127.0.0.1:{self._server.servers[0].sockets[0].getsockname()[1]}"

    @contextmanager
    def serving(self, endpoint: FakeEndpoint) -> Iterator[FakeEndpoint]:
        """The endpoint under an address of its own, for the length of a block."""
        name = f"fake{next(self._names)}"
        endpoint.url = f"{self.address}/v2/{name}"
        self.endpoints[name] = endpoint
        try:
            yield endpoint
        finally:
            del self.endpoints[name]

    def stop(self) -> None:
        self._server.should_exit = True
        self._thread.join()
