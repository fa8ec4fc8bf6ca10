"""Where Darkroom touches the RunPod SDK: the handler, progress posts, fitness checks and a clean end on SIGTERM."""

from __future__ import annotations

import asyncio
import logging
import re
import signal
import sys
from collections.abc import Mapping
from importlib import import_module
from threading import Thread
from typing import TYPE_CHECKING, Any

from darkroom.errors import GpuFault
from darkroom.progress import Send
from darkroom.settings import Settings

if TYPE_CHECKING:
    from darkroom.service import Service

log = logging.getLogger(__name__)

DRAIN_POLL_SECONDS = 0.05


def set_up_logging(level: str) -> None:
    """One line per event on stderr, where RunPod collects it. `level` is Darkroom's; libraries speak from WARNING on.

    Below that botocore and urllib3 print what signatures are made of.
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(WithoutSignatures("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    # A library of the SDK's has set up the root logger by now, in a form of its own.
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    logging.getLogger("darkroom").setLevel(level)


class WithoutSignatures(logging.Formatter):
    """Cuts the query off every address in a line or traceback: presigned links carry their key there."""

    QUERY = re.compile(r"\?[\w.~%-]+=[^\s'\")>]*")

    def format(self, record: logging.LogRecord) -> str:
        """The record as text, queries left out."""
        return self.QUERY.sub("?[redacted]", super().format(record))


class Edge:
    """The SDK's view of a Service."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._settings = service.settings
        self._drain: asyncio.Task[None] | None = None
        self._watching = False
        self._closing = False

    def config(self) -> dict[str, Any]:
        """What `runpod.serverless.start` is given."""
        return {"handler": self.handler, "concurrency_modifier": self._concurrency}

    def register_fitness_checks(self) -> None:
        """The worker takes jobs only once it has its GPU, its store works and its models are loaded.

        A failure restarts it.
        """
        from runpod.serverless.modules.rp_fitness import register_fitness_check

        async def models_load() -> None:
            await self._service.preload()

        def store_works() -> None:
            self._service.check()

        register_fitness_check(self.gpu_is_usable)
        register_fitness_check(store_works)
        register_fitness_check(models_load)

    def gpu_is_usable(self) -> None:
        """Raise GpuFault where `auto` has found no card on RunPod, which bills one: pocket pictures at a GPU's price.

        A local endpoint, and who asks for the pocket profile by name, may do without.
        """
        if self._settings.on_runpod and self._settings.profile == "auto" and self._service.profile.device == "cpu":
            raise GpuFault(
                "no usable GPU: the host's driver is too old for CUDA 13, or no GPU is attached; "
                "set DARKROOM_PROFILE=pocket to mean the pocket model"
            )

    async def handler(self, job: Mapping[str, Any]) -> dict[str, Any]:
        """One job. CancelledError of a stopped job passes through, as the SDK wants it."""
        reply = await self._service.handle(job, self._progress(job))
        if reply.get("refresh_worker"):
            await self._be_the_last()
        return reply

    async def _be_the_last(self) -> None:
        """An answer with refresh_worker ends this worker: no more jobs, and the others in flight are answered first."""
        self._closing = True
        while self._service.active:
            await asyncio.sleep(DRAIN_POLL_SECONDS)
        if self._watching and self._drain is None:
            self._drain = asyncio.create_task(self._leave())

    # -- progress -------------------------------------------------------------------------------

    def _progress(self, job: Mapping[str, Any]) -> Send | None:
        """Posts to the control plane; None where the SDK runs without one (--test_input, --rp_serve_api)."""
        if self._settings.runpod_post_output is None:
            return None

        async def send(payload: dict[str, Any]) -> None:
            from runpod.http_client import AsyncClientSession
            from runpod.serverless.modules.rp_http import send_result

            async with AsyncClientSession() as session:
                await send_result(session, {"status": "IN_PROGRESS", "output": payload}, dict(job))

        return send

    # -- the end --------------------------------------------------------------------------------

    def _concurrency(self, _now: int) -> int:
        """How many jobs the SDK may hold; it asks in its event loop before each take."""
        self._watch_for_sigterm()
        # The SDK takes nothing before a change of this number, and makes one only when it holds no job.
        return self._settings.concurrency + self._closing

    def _watch_for_sigterm(self) -> None:
        """At the first take, since before it the SDK's own signal handler is not in place.

        The SDK stops taking jobs on SIGTERM, but a poll already open lasts up to 90 seconds more, and a job that
        it brings is never run. So the process ends as soon as the running jobs have been answered; who takes a job
        back from a dead worker takes that one, too.
        """
        if not self._watching:
            self._watching = True
            inherited = signal.getsignal(signal.SIGTERM)
            loop = asyncio.get_running_loop()

            def stop() -> None:
                if callable(inherited):
                    inherited(signal.SIGTERM, None)
                self._drain = self._drain or loop.create_task(self._leave())

            loop.add_signal_handler(signal.SIGTERM, stop)

    async def _leave(self) -> None:
        from runpod.serverless.modules.worker_state import JobsProgress

        mine = set(JobsProgress())
        log.info("leaving: %d running jobs are finished, no more are taken", len(mine))
        while self._service.active or mine & set(JobsProgress()):
            await asyncio.sleep(DRAIN_POLL_SECONDS)
        log.info("drained")
        raise SystemExit(0)


def start(settings: Settings) -> None:
    """Run the worker loop, or the SDK's own --test_input and --rp_serve_api modes."""
    # A good second of the SDK's import is waiting, and torch's is work: side by side they cost the longer one.
    sdk = Thread(target=import_module, args=("runpod",), name="import runpod")
    sdk.start()
    from darkroom.service import Service

    sdk.join()
    import runpod
    from runpod.serverless.modules.rp_logger import RunPodLogger

    set_up_logging(settings.log_level)
    RunPodLogger().set_level(sdk_level(settings.log_level))
    edge = Edge(Service(settings))
    edge.register_fitness_checks()
    runpod.serverless.start(edge.config())


def sdk_level(level: str) -> str:
    """The SDK's name for a level: never DEBUG, at which it prints whole results and job addresses with their keys."""
    return {"DEBUG": "INFO", "WARNING": "WARN"}.get(level, level)
