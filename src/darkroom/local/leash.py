"""Holds one worker so that it never outlives its endpoint. Run as a script, on the standard library alone.

A process between the endpoint and the worker. Its stdin is a pipe from the endpoint: the first line says
what to start, each further line is an order ("TERM"). When the pipe ends, the endpoint is gone, even if
it was killed with SIGKILL, and the whole process group dies with it: the worker, its heartbeat process
and whatever else it started. (PR_SET_PDEATHSIG would reach the worker alone, and only on Linux.)
It exits with the worker's exit status, or 128 + n after signal n.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading


def main() -> None:
    """Start the worker, obey the pipe, end with the worker."""
    order = json.loads(sys.stdin.buffer.readline() or b"null")
    if order is None:
        return
    # This is the shell that a worker starts from, not a reader of Darkroom's settings.
    os.environ.update(order["env"])
    for name in ("NO_PROXY", "no_proxy"):
        # The SDK's heartbeat honours proxies; the endpoint is on this machine.
        os.environ[name] = ",".join(filter(None, (os.environ.get(name), "127.0.0.1", "localhost")))
    worker = subprocess.Popen(order["command"], cwd=order["cwd"], stdin=subprocess.DEVNULL)
    threading.Thread(target=_obey, args=(worker,), daemon=True).start()
    code = worker.wait()
    os._exit(code if code >= 0 else 128 - code)


def _obey(worker: subprocess.Popen[bytes]) -> None:
    for line in sys.stdin.buffer:
        if line.strip() == b"TERM":
            worker.terminate()
    os.killpg(0, signal.SIGKILL)


if __name__ == "__main__":
    main()
