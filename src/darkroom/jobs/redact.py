"""What of a request may be written down: no pictures, no secrets, no signatures."""

from __future__ import annotations

import hashlib
from typing import Any
from urllib.parse import urlsplit, urlunsplit

_SECRET_WORDS = ("secret", "token", "password", "api_key", "apikey", "accessid", "access_key", "authorization")


def redacted(value: Any) -> Any:
    """A copy for manifests and logs.

    Data URIs become their media type, length and SHA-256; addresses lose user, query and fragment
    (where signatures stand); values under secret-sounding keys and all of s3Config are replaced.
    """
    if isinstance(value, dict):
        return {key: "[redacted]" if _is_secret(key) else redacted(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [redacted(item) for item in value]
    return _redacted_text(value) if isinstance(value, str) else value


def _is_secret(key: Any) -> bool:
    name = str(key).lower()
    return name == "s3config" or any(word in name for word in _SECRET_WORDS)


def _redacted_text(text: str) -> str:
    scheme = text[:8].lower()
    if scheme.startswith("data:"):
        head = text.partition(",")[0][:80]
        return f"{head},[{len(text)} characters, sha256 {hashlib.sha256(text.encode()).hexdigest()}]"
    if scheme.startswith(("http:", "https:")):
        return _bare_address(text)
    return text


def _bare_address(text: str) -> str:
    try:
        parts = urlsplit(text)
    except ValueError:
        return "[malformed address]"
    host = parts.netloc.rsplit("@", 1)[-1]
    return urlunsplit((parts.scheme, host, parts.path, "[redacted]" if parts.query else "", ""))
