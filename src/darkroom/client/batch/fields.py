"""Text from a table or a command line -> the values that `image_edit` takes."""

from __future__ import annotations

import difflib
import json
from typing import Any

from pydantic import TypeAdapter, ValidationError

from darkroom.jobs import ImageEdit

IMAGE_COLUMNS = ("image", "images")
FIELDS = tuple(name for name in ImageEdit.model_fields if name != "images")
"""Every field of image_edit that a column may set, `type` included."""


def unknown(names: list[str]) -> list[str]:
    """A sentence for each name that is no column, with the spelling that was probably meant."""
    known = [*IMAGE_COLUMNS, *FIELDS]
    sentences = []
    for name in names:
        if name not in known:
            close = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
            hint = f"did you mean {close[0]}?" if close else f"known are {', '.join(known)}"
            sentences.append(f"{name!r} is not a field of image_edit; {hint}")
    return sentences


def parse_text(name: str, text: str) -> Any:
    """One cell as the type that its field has. Raises ValueError naming the field."""
    if name == "loras":
        return parse_loras(text)
    if name == "prompt":
        return text
    annotation: Any = ImageEdit.model_fields[name].annotation
    try:
        return TypeAdapter(annotation).validate_python(text)
    except ValidationError as error:
        message = error.errors(include_url=False)[0]["msg"]
        raise ValueError(f"{name}: {message[:1].lower()}{message[1:]}, got {text!r}") from None


def parse_loras(text: str) -> list[dict[str, Any]]:
    """'style.safetensors:0.8;other.safetensors', or the JSON list that the job takes."""
    if text.lstrip().startswith("["):
        try:
            value = json.loads(text)
        except ValueError as error:
            raise ValueError(f"loras: not JSON: {error}") from None
        return list(value)
    return [_lora(part.strip()) for part in text.split(";") if part.strip()]


def _lora(text: str) -> dict[str, Any]:
    path, colon, scale = text.rpartition(":")
    if colon and path and _is_number(scale):
        return {"path": path, "scale": float(scale)}
    return {"path": text, "scale": 1.0}


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
