"""The picture that a benchmark edits."""

from __future__ import annotations

import io
from pathlib import Path

from PIL import Image, ImageDraw, ImageOps


def reference_card(side: int = 512) -> Image.Image:
    """A square picture with shapes and a gradient; the same everywhere."""
    ramp = Image.linear_gradient("L").resize((side, side))
    card = Image.merge("RGB", (ramp, ramp.rotate(90), ImageOps.invert(ramp)))
    draw = ImageDraw.Draw(card)
    draw.ellipse((side // 8, side // 8, side // 2, side // 2), fill=(220, 40, 40))
    draw.rectangle((side // 2, side // 2, side * 7 // 8, side * 7 // 8), fill=(40, 80, 220))
    return card


def load(path: Path | None) -> Image.Image:
    """The picture at `path`, or the reference card. Raises OSError."""
    if path is None:
        return reference_card()
    with Image.open(path) as picture:
        return ImageOps.exif_transpose(picture).convert("RGB")


def variant(picture: Image.Image, number: int) -> bytes:
    """A PNG that differs from every other number's in one pixel, so that it has another hash."""
    changed = picture.copy()
    value = number % 2**24
    changed.putpixel((0, 0), (value >> 16 & 255, value >> 8 & 255, value & 255))
    buffer = io.BytesIO()
    changed.save(buffer, "PNG")
    return buffer.getvalue()
