"""Pictures as a caller has them -> addresses as a job takes them."""

from __future__ import annotations

import base64
import binascii
from pathlib import Path

ImageLike = str | bytes | Path

_MAGIC: tuple[tuple[bytes, str], ...] = (
    (b"\x89PNG\r\n\x1a\n", "image/png"),
    (b"\xff\xd8\xff", "image/jpeg"),
    (b"GIF8", "image/gif"),
    (b"BM", "image/bmp"),
    (b"II*\x00", "image/tiff"),
    (b"MM\x00*", "image/tiff"),
)


def source(image: ImageLike) -> str:
    """A path or bytes become a data URI; http(s), s3 and data addresses are handed on as they are.

    Raises FileNotFoundError, or ValueError for a file that is no picture.
    """
    if isinstance(image, bytes):
        return data_uri(image, "the given bytes")
    if isinstance(image, str) and is_address(image):
        return image
    path = Path(image).expanduser()
    if not path.is_file():
        raise FileNotFoundError(f"there is no picture at {path}")
    return data_uri(path.read_bytes(), str(path))


def is_address(text: str) -> bool:
    """True for what a worker fetches or decodes itself, rather than a file on this machine."""
    return text.startswith(("http://", "https://", "s3://", "data:"))


def media_type(data: bytes) -> str | None:
    """The type of a picture by its first bytes, or None."""
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "image/webp"
    return next((kind for magic, kind in _MAGIC if data.startswith(magic)), None)


def data_uri(data: bytes, name: str) -> str:
    """Raises ValueError, naming `name`, for bytes that are no known picture format."""
    kind = media_type(data)
    if kind is None:
        raise ValueError(f"{name} is not a PNG, JPEG, WebP, GIF, BMP or TIFF picture")
    return f"data:{kind};base64,{base64.b64encode(data).decode('ascii')}"


def from_data_uri(uri: str) -> bytes:
    """The bytes of a base64 data URI. Raises ValueError."""
    head, comma, body = uri.partition(",")
    if not head.startswith("data:") or not comma or not head.endswith(";base64"):
        raise ValueError("not a base64 data URI")
    try:
        return base64.b64decode(body, validate=True)
    except binascii.Error as error:
        raise ValueError(f"damaged base64: {error}") from None
