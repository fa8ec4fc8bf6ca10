"""One worker process on its leash, and its log file."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import Sequence
from pathlib import Path

LEASH = Path(__file__).with_name("leash.py")


class WorkerProcess:
    """A started worker. Whatever it starts in turn stays in its process group and dies with it."""

    def __init__(self, leash: Process, log: Path) -> None:
        self._leash = leash
        self.log = log

    @classmethod
    async def start(cls, command: Sequence[str], env: dict[str, str], cwd: Path | None, log: Path) -> WorkerProcess:
        """Start `command` with `env` added to this process's environment; output goes to `log`. Raises OSError."""
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("ab") as out:
            # Isolated and without site: the leash is up in 15 ms, and no setting of the worker's can break it.
            leash = await asyncio.create_subprocess_exec(
                sys.executable, "-I", "-S", str(LEASH), stdin=PIPE, stdout=out, stderr=out, start_new_session=True)
        order = {"command": list(command), "env": env, "cwd": None if cwd is None else str(cwd)}
        process = cls(leash, log)
        process._say(json.dumps(order))
        return process

    def terminate(self) -> None:
        """Ask the worker to end in good order (SIGTERM)."""
        self._say("TERM")

    def kill(self) -> None:
        """End the worker and all that it started, now."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._leash.pid, signal.SIGKILL)

    async def ended(self) -> int:
        """Wait for the end; the exit status, negative for a signal. Leaves nothing of the group behind."""
        code = await self._leash.wait()
        self.kill()
        return 128 - code if 128 < code < 160 else code

    def last_words(self, lines: int = 5) -> str:
        """The end of the log, for the endpoint's own log."""
        with self.log.open("rb") as log:
            log.seek(max(0, self.log.stat().st_size - 4096))
            return b"\n".join(log.read().splitlines()[-lines:]).decode(errors="replace")

    def _say(self, line: str) -> None:
        assert self._leash.stdin is not None
        if not self._leash.stdin.is_closing():
            self._leash.stdin.write(line.encode() + b"\n")
