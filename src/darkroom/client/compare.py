"""Before and after in one picture."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageOps

from darkroom.client.download import write_atomically
from darkroom.client.sources import from_data_uri, is_address

GAP_PIXELS = 8


def write_comparison(before: Sequence[str], after: Sequence[Path]) -> Path:
    """Write {first result}-compare.png: the inputs left, the results right, all at the first result's height.

    Inputs behind addresses are left out: they are not on this machine.
    """
    results = [_open(path.read_bytes()) for path in after]
    height = results[0].height
    inputs = [_open(data) for image in before if (data := _local(image)) is not None]
    pictures = [_at_height(picture, height) for picture in [*inputs, *results]]
    width = sum(picture.width for picture in pictures) + GAP_PIXELS * (len(pictures) - 1)
    sheet = Image.new("RGB", (width, height), "white")
    left = 0
    for picture in pictures:
        sheet.paste(picture, (left, 0))
        left += picture.width + GAP_PIXELS
    buffer = io.BytesIO()
    sheet.save(buffer, "PNG")
    path = after[0].with_name(f"{after[0].stem}-compare.png")
    write_atomically(path, buffer.getvalue())
    return path


def _local(image: str) -> bytes | None:
    if image.startswith("data:"):
        return from_data_uri(image)
    return None if is_address(image) else Path(image).expanduser().read_bytes()


def _open(data: bytes) -> Image.Image:
    with Image.open(io.BytesIO(data)) as picture:
        return ImageOps.exif_transpose(picture).convert("RGB")


def _at_height(picture: Image.Image, height: int) -> Image.Image:
    width = max(1, round(picture.width * height / picture.height))
    return picture.resize((width, height), Image.Resampling.LANCZOS)
