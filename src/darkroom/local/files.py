"""The store folder over HTTP, so that links in replies work on this machine."""

from __future__ import annotations

import mimetypes
from pathlib import Path

from fastapi import APIRouter, Depends, HTTPException
from fastapi.responses import FileResponse

from darkroom.local.guard import Guard

HEADERS = {
    "X-Content-Type-Options": "nosniff",
    # A report is HTML that quotes callers' prompts: it may look as it likes, but run nothing here.
    "Content-Security-Policy": "sandbox; default-src 'none'; img-src 'self' data:; style-src 'unsafe-inline'; "
                               "media-src 'self' data:",
    "Cache-Control": "private, max-age=3600",
}


def file_routes(store: Path, guard: Guard) -> APIRouter:
    """GET /files/… for everything in `store` but dot files (the spool among them)."""
    segment = f"/{guard.files_segment}" if guard.files_segment else ""
    routes = APIRouter(prefix=f"/files{segment}", dependencies=[Depends(guard.visitor)])

    @routes.api_route("/{path:path}", methods=["GET", "HEAD"])
    async def file(path: str) -> FileResponse:
        found = locate(store, path)
        if found is None:
            raise HTTPException(404, "there is no such file")
        media_type = mimetypes.guess_type(found.name)[0] or "application/octet-stream"
        return FileResponse(found, media_type=media_type, headers=HEADERS)

    return routes


def locate(store: Path, path: str) -> Path | None:
    """The file that a path of an address names, or None where it may not be served.

    Nothing outside `store` is, also not by way of a symbolic link, and nothing with a name that starts with a dot.
    """
    if "\x00" in path or any(part.startswith(".") or "\\" in part for part in path.split("/")):
        return None
    root = store.resolve()
    try:
        found = (root / path.lstrip("/")).resolve(strict=True)
        inside = found.relative_to(root)
    except (OSError, ValueError):
        return None
    hidden = any(part.startswith(".") for part in inside.parts)
    return found if found.is_file() and not hidden else None
