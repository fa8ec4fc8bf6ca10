"""Which endpoint: a URL, or RunPod's own by id."""

from __future__ import annotations

import re

RUNPOD_BASE = "https://api.runpod.ai/v2"
LOCAL_ENDPOINT = "http://127.0.0.1:8000/v2/local"


def endpoint_url(endpoint: str) -> str:
    """'abc123' -> RunPod's address of that id; an http(s) URL without query or fragment stays as it is.

    Raises ValueError for anything else.
    """
    endpoint = endpoint.strip().rstrip("/")
    if re.fullmatch(r"https?://[^\s/?#]+(/[^\s?#]*)?", endpoint):
        return endpoint
    if re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]{0,127}", endpoint):
        return f"{RUNPOD_BASE}/{endpoint}"
    raise ValueError(
        f"{endpoint!r} is neither an endpoint id nor an address such as {LOCAL_ENDPOINT} "
        f"or {RUNPOD_BASE}/<id>"
    )
