"""Reading a request's body without letting it fill the memory."""

from __future__ import annotations

from fastapi import Request


async def read_body(request: Request, limit: int) -> bytes | None:
    """The body, or None if it is longer than `limit` bytes.

    An overlong body is read to its end and thrown away: a client that is cut off in mid-sentence
    sees a broken connection instead of the answer.
    """
    parts: list[bytes] | None = []
    size = 0
    async for part in request.stream():
        size += len(part)
        if size > limit:
            parts = None
        if parts is not None:
            parts.append(part)
    return None if parts is None else b"".join(parts)
