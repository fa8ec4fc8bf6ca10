"""GET /: one static page to try the endpoint with. It loads nothing from elsewhere."""

from __future__ import annotations

from pathlib import Path

from fastapi import APIRouter, Response

from darkroom.local.config import EndpointConfig

PAGE = Path(__file__).with_name("page.html")
HEADERS = {
    # Pictures may come from the store, wherever that is; everything else from here only.
    "Content-Security-Policy": "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; "
                               "img-src * data: blob:; connect-src 'self'; base-uri 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}


def page_routes(config: EndpointConfig) -> APIRouter:
    """The playground of this endpoint."""
    routes = APIRouter()
    page = PAGE.read_text(encoding="utf-8").replace("{{ENDPOINT}}", config.endpoint_id)

    @routes.get("/")
    async def playground() -> Response:
        return Response(page, media_type="text/html", headers=HEADERS)

    return routes
