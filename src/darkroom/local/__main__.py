"""An endpoint at the end of a pipe: reads its configuration from stdin and runs until stdin ends. See running.py."""

from __future__ import annotations

import asyncio
import logging
import sys
import threading

from darkroom.local.config import CannotStart, EndpointConfig
from darkroom.local.server import run_until


async def _run(config: EndpointConfig) -> None:
    stop, hurry = asyncio.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()

    def until_the_pipe_ends() -> None:
        sys.stdin.buffer.read()
        loop.call_soon_threadsafe(stop.set)

    # The starter holds the other end; when it is gone, in whatever way, so is this endpoint.
    threading.Thread(target=until_the_pipe_ends, daemon=True).start()
    await run_until(config, lambda address: print(address, flush=True), stop, hurry)


def main() -> None:
    """Serve until the pipe ends; on stdout the address, or the sentence that says why there is none."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", stream=sys.stderr)
    logging.getLogger("uvicorn").setLevel(logging.WARNING)
    config = EndpointConfig.model_validate_json(sys.stdin.buffer.readline())
    try:
        asyncio.run(_run(config))
    except CannotStart as reason:
        print(reason, flush=True)
        sys.exit(1)


if __name__ == "__main__":
    main()
