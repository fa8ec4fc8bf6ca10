"""A RunPod endpoint on this machine: API v2 in front of a durable queue and of workers that run the unmodified SDK.

    config = EndpointConfig(command=(sys.executable, "handler.py"))
    serve(config)                          # blocks until SIGINT or SIGTERM
    with running(config) as address: ...   # in a process of its own

docs/local-endpoint.md says how it behaves where the platform's documents are silent.
"""

from darkroom.local.config import CannotStart, EndpointConfig, Limits
from darkroom.local.running import EndpointProcess, running, serve, start

__all__ = ["CannotStart", "EndpointConfig", "EndpointProcess", "Limits", "running", "serve", "start"]
