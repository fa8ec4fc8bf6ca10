"""Starts workers when jobs wait, ends them when they idle, misbehave or ask for it, and buries the dead.

One tick: what timed out, who must be killed, who may go, who must come. Everything that happens between
ticks (a job, a result, a death) sets `dispatch.changed` and brings the next tick forward.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from pathlib import Path

from darkroom.local.config import EndpointConfig
from darkroom.local.dispatch import Dispatch, first_of
from darkroom.local.guard import Guard
from darkroom.local.process import WorkerProcess
from darkroom.local.roster import Seat
from darkroom.local.scaling import workers_wanted
from darkroom.local.worker_side import worker_environment

log = logging.getLogger(__name__)

TICK_SECONDS = 0.25
FORGET_SECONDS = 5.0
STOOD_STILL_SECONDS = 2.0
"""A tick so late means that this process was stopped or suspended, not that the workers were silent."""
LOGS_KEPT = 50
BACKOFF_SECONDS = (0.5, 30.0)
IDLE_GOODBYE_SECONDS = 2.0


class Supervisor:
    """The processes behind the roster.

    `base` is the endpoint's address as seen from this machine, `env` what workers must know of the store.
    """

    def __init__(
        self, config: EndpointConfig, dispatch: Dispatch, guard: Guard, base: str, env: dict[str, str]
    ) -> None:
        self._config = config
        self._dispatch = dispatch
        self._roster = dispatch.roster
        self._guard = guard
        self._base = base
        self._env = env
        self._processes: dict[str, WorkerProcess] = {}
        self._watchers: set[asyncio.Task[None]] = set()
        self._not_before = 0.0
        self._forgot_at = 0.0
        self._expired_at = 0.0

    async def run(self) -> None:
        """Look after the workers until the endpoint closes."""
        ticked_at = self._roster.now()
        while not self._dispatch.closing.is_set():
            self._dispatch.changed.clear()
            now = self._roster.now()
            if now - ticked_at > STOOD_STILL_SECONDS:
                self._roster.pardon(now - ticked_at)
            ticked_at = now
            await self._tick(now)
            await first_of(TICK_SECONDS, self._dispatch.changed, self._dispatch.closing)

    async def stop(self, seconds: float, hurry: asyncio.Event) -> None:
        """Let running jobs end within `seconds`, or until `hurry`, then kill what is left."""
        for seat in self._roster:
            self._dismiss(seat, "the endpoint stops")
        until = self._roster.now() + seconds
        idle_until = self._roster.now() + min(seconds, IDLE_GOODBYE_SECONDS)
        while self._processes and not hurry.is_set() and self._roster.now() < until:
            idle = {seat.worker for seat in self._roster if not seat.held}
            for worker, process in self._processes.items():
                if worker in idle and self._roster.now() >= idle_until:
                    process.kill()
            await first_of(0.1, hurry)
        for process in self._processes.values():
            process.kill()
        await asyncio.gather(*self._watchers)

    # -- one tick -------------------------------------------------------------------------------

    async def _tick(self, now: float) -> None:
        for watcher in [watcher for watcher in self._watchers if watcher.done()]:
            self._watchers.discard(watcher)
            watcher.result()  # what went wrong with a burial must not go unseen
        if now - self._expired_at >= TICK_SECONDS:
            self._expired_at = now
            self._dispatch.expire()
        if now - self._forgot_at >= FORGET_SECONDS:
            self._forgot_at = now
            self._dispatch.queue.forget()
        for seat in self._roster:
            if (reason := self._must_die(seat, now)) is not None:
                log.warning("worker %s is killed: %s", seat.worker, reason)
                self._processes[seat.worker].kill()
            elif seat.refresh and not seat.leaving:
                self._dismiss(seat, "it asked for a restart")
        await self._scale(now)

    def _must_die(self, seat: Seat, now: float) -> str | None:
        config = self._config
        if seat.worker not in self._processes:
            return None  # it is being started
        stubborn = [job for job, hold in seat.held.items()
                    if (due := hold.stop_due_at) is not None and now - due > config.stop_grace_seconds]
        if stubborn:
            return f"it did not stop {', '.join(stubborn)} within {config.stop_grace_seconds:g} s"
        if seat.booting:
            late = now - seat.since > config.boot_timeout_seconds
            return f"it asked for no job within {config.boot_timeout_seconds:g} s" if late else None
        if now - seat.heard_at > config.ping_timeout_seconds:
            return f"it gave no sign of life for {config.ping_timeout_seconds:g} s"
        if seat.leaving_since is not None and not seat.held and now - seat.leaving_since > config.stop_grace_seconds:
            return f"it did not end within {config.stop_grace_seconds:g} s of being asked to"
        return None

    async def _scale(self, now: float) -> None:
        config, seats = self._config, [seat for seat in self._roster if not seat.leaving]
        load = self._dispatch.queue.load()
        wanted = workers_wanted(config, load, alive=len(seats), booting=sum(seat.booting for seat in seats))
        # A leaving worker still has its memory: it counts against workers_max until it is gone.
        room = config.workers_max - len(list(self._roster))
        if now >= self._not_before:
            for _ in range(min(wanted - len(seats), room)):
                await self._start()
        spare = len(seats) - config.workers_min if load.queued == 0 else 0
        for seat in sorted((seat for seat in seats if seat.idle_since is not None), key=lambda s: s.idle_since or 0.0):
            if spare > 0 and now - (seat.idle_since or now) >= config.idle_timeout_seconds:
                spare -= 1
                self._dismiss(seat, "it was idle")

    # -- birth and death ------------------------------------------------------------------------

    async def _start(self) -> None:
        worker = secrets.token_hex(7)
        self._roster.join(worker)
        env = {**self._config.env, **self._env,
               **worker_environment(self._config, self._guard, self._base, worker)}
        logs = self._config.data / "logs"
        process = await WorkerProcess.start(self._config.command, env, self._config.cwd, logs / f"{worker}.log")
        _prune(logs)
        log.info("worker %s started", worker)
        self._processes[worker] = process
        watcher = asyncio.create_task(self._watch(worker, process))
        self._watchers.add(watcher)

    async def _watch(self, worker: str, process: WorkerProcess) -> None:
        code = await process.ended()
        seat = self._roster.get(worker)
        log.info("worker %s ended with status %d", worker, code)
        if seat is not None and seat.booting and not seat.leaving:
            self._stillborn(seat, code, process)
        del self._processes[worker]
        self._dispatch.bury(worker)

    def _stillborn(self, seat: Seat, code: int, process: WorkerProcess) -> None:
        """It ended before it asked for a job, as the next one probably will: try ever more slowly."""
        self._roster.unhealthy += 1
        self._roster.problem = seat.ailment or "workers end before they ask for a job; their log says why"
        first, most = BACKOFF_SECONDS
        pause = min(most, first * 2 ** min(10, self._roster.unhealthy - 1))
        self._not_before = self._roster.now() + pause
        log.error("worker %s ended with status %d before it asked for a job; the next one starts in %g s.\n"
                  "The end of %s:\n%s", seat.worker, code, pause, process.log.name, process.last_words())

    def _dismiss(self, seat: Seat, reason: str) -> None:
        if not seat.leaving:
            log.info("worker %s is asked to end: %s", seat.worker, reason)
            self._dispatch.dismiss(seat)
            if seat.worker in self._processes:
                self._processes[seat.worker].terminate()


def _prune(logs: Path) -> None:
    """Keep the newest logs only."""
    for old in sorted(logs.glob("*.log"), key=lambda log: log.stat().st_mtime, reverse=True)[LOGS_KEPT:]:
        old.unlink(missing_ok=True)
