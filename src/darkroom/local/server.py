"""Puts the rooms together: the queue, the web server, the supervisor; from start to an orderly end."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import logging
import signal
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

import uvicorn
from fastapi import FastAPI, Request, Response
from starlette.exceptions import HTTPException

from darkroom.local.api import answer, client_routes
from darkroom.local.config import CannotStart, EndpointConfig
from darkroom.local.dispatch import Dispatch
from darkroom.local.files import file_routes
from darkroom.local.guard import Guard
from darkroom.local.job import json_object
from darkroom.local.playground import page_routes
from darkroom.local.queue import JobQueue
from darkroom.local.roster import Roster
from darkroom.local.supervisor import Supervisor
from darkroom.local.webhooks import call_webhooks
from darkroom.local.worker_side import worker_routes

log = logging.getLogger(__name__)


async def run_until_signal(config: EndpointConfig, ready: Callable[[str], None]) -> None:
    """Run a local endpoint until SIGINT or SIGTERM. Raises CannotStart."""
    stop, hurry = asyncio.Event(), asyncio.Event()
    _on_signals(lambda: hurry.set() if stop.is_set() else stop.set())
    await run_until(config, ready, stop, hurry)


async def run_until(config: EndpointConfig, ready: Callable[[str], None],
                    stop: asyncio.Event, hurry: asyncio.Event) -> None:
    """Run a local endpoint on this event loop until `stop`; `hurry` cuts the draining short. Raises CannotStart."""
    with _only_endpoint(config.data), contextlib.closing(_listen(config)) as listener:
        queue = JobQueue(config.data / "queue.sqlite", max_attempts=config.max_attempts)
        with contextlib.closing(queue):
            if interrupted := queue.recover():
                log.info("%d jobs were running when the endpoint last stopped; they are handed out again", interrupted)
            port = listener.getsockname()[1]
            dispatch = Dispatch(queue, Roster())
            guard = Guard(config)
            supervisor = Supervisor(config, dispatch, guard, f"http://{_local_host(config.host)}:{port}",
                                    _store_environment(config, guard, port))
            server = _WebServer(build_app(config, dispatch, guard))
            web = asyncio.create_task(server.serve(sockets=[listener]))
            while not server.started and not web.done():
                await asyncio.sleep(0.005)
            supervision = asyncio.create_task(supervisor.run())
            webhooks = asyncio.create_task(call_webhooks(config, dispatch))
            ready(address_of(config, port))
            halt = asyncio.create_task(stop.wait())
            # A room that breaks must not leave the others running as if nothing had happened.
            await asyncio.wait({halt, web, supervision, webhooks}, return_when=asyncio.FIRST_COMPLETED)
            halt.cancel()
            dispatch.close()
            await asyncio.wait({supervision})  # it may be starting a worker, which must be stopped too
            await supervisor.stop(config.drain_seconds, hurry)
            server.should_exit = True
            if not webhooks.done():
                webhooks.cancel()  # what is due is on disk, and is called at the next start
            results = await asyncio.gather(web, supervision, webhooks, return_exceptions=True)
            for broken in (result for result in results if isinstance(result, Exception)):
                raise broken


def build_app(config: EndpointConfig, dispatch: Dispatch, guard: Guard) -> FastAPI:
    """All routes of the endpoint; every error is a JSON object with one sentence in `error`."""
    app = FastAPI(title="Darkroom, local endpoint", openapi_url=None, docs_url=None, redoc_url=None)
    app.include_router(client_routes(config, dispatch, guard))
    app.include_router(worker_routes(config, dispatch, guard))
    app.include_router(page_routes(config))
    if config.store is not None:
        app.include_router(file_routes(config.store, guard))

    @app.exception_handler(HTTPException)
    async def refused(request: Request, error: HTTPException) -> Response:
        sentence = "there is nothing at this address" if error.detail == "Not Found" else str(error.detail)
        reply = answer(json_object({"error": sentence}, {}))
        reply.status_code = error.status_code
        reply.headers.update(error.headers or {})
        return reply

    @app.exception_handler(Exception)
    async def broken(request: Request, error: Exception) -> Response:
        reply = answer(json_object({"error": "the endpoint failed on this request; its log says why"}, {}))
        reply.status_code = 500
        return reply

    return app


class _WebServer(uvicorn.Server):
    """uvicorn without its signal handling: here a signal first drains the workers, who still need the server."""

    def __init__(self, app: FastAPI) -> None:
        # Clients keep idle connections for 5 s (httpx) or 15 s (the SDK). A server that closes first meets a
        # request on its way now and then, which the client sees as a broken connection.
        super().__init__(uvicorn.Config(app, access_log=False, log_config=None, lifespan="off",
                                        timeout_keep_alive=75, timeout_graceful_shutdown=3))

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def address_of(config: EndpointConfig, port: int) -> str:
    """Where clients reach an endpoint that listens on `port`."""
    return config.public_url or f"http://{_local_host(config.host)}:{port}"


def _store_environment(config: EndpointConfig, guard: Guard, port: int) -> dict[str, str]:
    if config.store is None:
        return {}
    config.store.mkdir(parents=True, exist_ok=True)
    segment = f"/{guard.files_segment}" if guard.files_segment else ""
    return {"DARKROOM_STORE": str(config.store.resolve()),
            "DARKROOM_PUBLIC_URL": f"{address_of(config, port)}/files{segment}"}


def _local_host(host: str) -> str:
    if host in ("0.0.0.0", "::", ""):
        return "127.0.0.1"
    return f"[{host}]" if ":" in host else host


def _listen(config: EndpointConfig) -> socket.socket:
    family = socket.AF_INET6 if ":" in config.host else socket.AF_INET
    # With the protocol named, asyncio turns Nagle's algorithm off; without, every answer costs 40 ms.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    # A restart must not wait for the connections of the last run to be forgotten.
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((config.host, config.port))
    except OSError as error:
        listener.close()
        raise CannotStart(f"cannot listen on {config.host}, port {config.port}: {error.strerror}") from None
    return listener


@contextlib.contextmanager
def _only_endpoint(data: Path) -> Iterator[IO[bytes]]:
    """Two endpoints on one queue would hand every job out twice."""
    data.mkdir(parents=True, exist_ok=True, mode=0o700)
    with (data / "lock").open("ab") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise CannotStart(f"another endpoint uses the data folder {data}") from None
        yield lock


def _on_signals(act: Callable[[], None]) -> None:
    loop = asyncio.get_running_loop()
    for name in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(name, act)
