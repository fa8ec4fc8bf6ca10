"""Who may ask: clients by API key, workers by the token of this run, browsers only from this endpoint's own page."""

from __future__ import annotations

import hmac
import secrets
from urllib.parse import urlsplit

from fastapi import HTTPException, Request

from darkroom.local.config import EndpointConfig, is_loopback


class Guard:
    """Checks requests; each check raises HTTPException (401 or 403) with a sentence."""

    def __init__(self, config: EndpointConfig) -> None:
        self._key = None if config.api_key is None else config.api_key.get_secret_value()
        self._public_netloc = urlsplit(config.public_url or "").netloc or None
        self.worker_token = secrets.token_urlsafe(24)
        # A link to a result must work without a header, as a presigned one does: with a key, the links carry a
        # segment that only those know who were given a link. It is the same after a restart.
        self.files_segment = "" if self._key is None else hmac.digest(self._key.encode(), b"files", "sha256").hex()[:32]

    async def client(self, request: Request) -> None:
        """A client of API v2: the key, bare or as a bearer token, when the endpoint has one."""
        await self.visitor(request)
        self._own_page(request)
        if self._key is None:
            return
        given = request.headers.get("authorization", "").removeprefix("Bearer ").strip()
        if not hmac.compare_digest(given.encode(), self._key.encode()):
            raise HTTPException(401, "the API key is missing or wrong; send it as 'Authorization: Bearer KEY'")

    async def worker(self, request: Request) -> None:
        """A worker of this run, by the token in the addresses that it was given.

        In the address, because the SDK prefers a key from its own configuration file for the header.
        """
        given = request.query_params.get("token", "")
        if not hmac.compare_digest(given.encode(), self.worker_token.encode()):
            raise HTTPException(401, "this worker does not belong to this run of the endpoint")

    async def visitor(self, request: Request) -> None:
        """Anyone who asks for this endpoint by a name of its own: another site's may be made to resolve to it."""
        host = _hostname(f"//{request.headers.get('host', '')}")
        if self._key is None and not is_loopback(host):
            raise HTTPException(403, "without an API key this endpoint answers to 127.0.0.1 and localhost only")

    def _own_page(self, request: Request) -> None:
        """Any web page that is open on this machine could send jobs here, but browsers name the page's origin."""
        origin = request.headers.get("origin")
        if origin is not None and urlsplit(origin).netloc not in (request.headers.get("host"), self._public_netloc):
            raise HTTPException(403, "other sites' pages may not use this endpoint")


def _hostname(address: str) -> str:
    try:
        return urlsplit(address).hostname or ""
    except ValueError:
        return ""
