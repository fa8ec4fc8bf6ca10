"""The doors to a local endpoint: in this process (`serve`), or in one of its own (`start`, `running`).

The web server is loaded late: who starts an endpoint in another process does not wait for its imports.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import subprocess
import sys
from collections.abc import Callable, Iterator

from darkroom.local.config import CannotStart, EndpointConfig


def serve(config: EndpointConfig, *, ready: Callable[[str], None] | None = None) -> None:
    """Run a local endpoint until SIGINT or SIGTERM; call it in the main thread.

    `ready` is called with the endpoint's address, such as http://127.0.0.1:8000, once it answers.
    The first signal lets running jobs end (`drain_seconds`), a second one ends them; jobs that did not end
    are handed out again at the next start. Raises CannotStart.
    """
    from darkroom.local.server import run_until_signal

    asyncio.run(run_until_signal(config, ready or (lambda address: None)))


class EndpointProcess:
    """A started endpoint. It stops when told to, or when this process ends in whatever way."""

    def __init__(self, process: subprocess.Popen[bytes], address: str) -> None:
        self._process = process
        self.address = address
        """Such as http://127.0.0.1:40000; the client API is under /v2/{endpoint_id}."""

    @property
    def pid(self) -> int:
        """The endpoint's process id."""
        return self._process.pid

    def stop(self) -> None:
        """End in good order: running jobs have `drain_seconds`, what is not done runs at the next start."""
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        self._close()

    def kill(self) -> None:
        """End at once (SIGKILL), as a crash would."""
        self._process.kill()
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        self._close()

    def _close(self) -> None:
        self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()


def start(config: EndpointConfig) -> EndpointProcess:
    """Start an endpoint and return once it answers; its log is `endpoint.log` in the data folder.

    Raises CannotStart with the endpoint's own words.
    """
    config.data.mkdir(parents=True, exist_ok=True, mode=0o700)
    log_path = config.data / "endpoint.log"
    with log_path.open("ab") as log:
        process = subprocess.Popen([sys.executable, "-m", "darkroom.local"], stdin=subprocess.PIPE,
                                   stdout=subprocess.PIPE, stderr=log, start_new_session=True)
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(reveal(config).encode() + b"\n")
    process.stdin.flush()
    said = process.stdout.readline().decode().strip()
    if not said.startswith("http"):
        endpoint = EndpointProcess(process, "")
        endpoint.kill()
        raise CannotStart(said or f"the endpoint did not start; {log_path} says why")
    return EndpointProcess(process, said)


@contextlib.contextmanager
def running(config: EndpointConfig) -> Iterator[str]:
    """A local endpoint for the length of a `with` block; gives its address. Raises CannotStart."""
    endpoint = start(config)
    try:
        yield endpoint.address
    finally:
        endpoint.stop()


def reveal(config: EndpointConfig) -> str:
    """The configuration as JSON with the key in clear, for the pipe to the endpoint's process only."""
    plain = config.model_dump(mode="json")
    if config.api_key is not None:
        plain["api_key"] = config.api_key.get_secret_value()
    return json.dumps(plain)
