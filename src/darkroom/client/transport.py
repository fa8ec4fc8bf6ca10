"""What both clients do to a call before it meets httpx, and to what httpx raises."""

from __future__ import annotations

from typing import TYPE_CHECKING

from darkroom import __version__
from darkroom.client.flow import Call

if TYPE_CHECKING:
    import httpx


def timeout() -> httpx.Timeout:
    """Seconds: an upload of 10 MB over a slow line fits; a dead host is noticed soon."""
    import httpx

    return httpx.Timeout(60.0, connect=10.0)


def lost() -> tuple[type[Exception], ...]:
    """What httpx raises when no answer came, or none that can be read."""
    import httpx

    return httpx.RequestError, httpx.InvalidURL


def headers(api_key: str | None) -> dict[str, str]:
    """What every call to the endpoint itself carries."""
    common = {"User-Agent": f"darkroom/{__version__}", "Accept": "application/json"}
    return {**common, "Authorization": f"Bearer {api_key}"} if api_key else common


def target(call: Call, endpoint: str, own_headers: dict[str, str]) -> tuple[str, dict[str, str], bool]:
    """(URL, headers, whether redirects are followed). Only calls to the endpoint carry its key."""
    if call.address.startswith("/"):
        content_type = {"Content-Type": "application/json"} if call.body is not None else {}
        return endpoint + call.address, {**own_headers, **content_type}, False
    return call.address, {"User-Agent": own_headers["User-Agent"]}, True


def problem(error: Exception) -> str:
    """A transport's complaint in one line."""
    text = str(error).strip() or "no details"
    return f"{type(error).__name__}: {text}"[:200]
