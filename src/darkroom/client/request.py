"""A job that makes pictures as it goes over the wire, checked before it is sent."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from darkroom.client.sources import ImageLike, source
from darkroom.jobs import Limits, parse

MOST = 10**9
GENEROUS = Limits(
    max_steps=MOST, max_prompts=MOST, max_prompt_chars=MOST, max_images_per_prompt=MOST, max_loras=MOST,
    max_side=MOST,
)
"""Sizes and counts are the endpoint's to limit; names, types and ranges are the same everywhere."""


def edit_input(
    images: Sequence[ImageLike] | ImageLike, prompt: str | Sequence[str], fields: Mapping[str, Any]
) -> dict[str, Any]:
    """The `input` of an edit; fields that are None are left to the endpoint.

    Raises darkroom.errors.BadJob naming the field, FileNotFoundError or ValueError naming the picture.
    """
    many = [images] if isinstance(images, ImageLike) else list(images)
    request = {
        "type": "image_edit",
        "images": [source(image) for image in many],
        "prompt": prompt if isinstance(prompt, str) else list(prompt),
        **{name: value for name, value in fields.items() if value is not None},
    }
    parse(request, GENEROUS)
    return request


def generate_input(prompt: str | Sequence[str], fields: Mapping[str, Any]) -> dict[str, Any]:
    """The `input` of an image_generate; fields that are None are left to the endpoint.

    Raises darkroom.errors.BadJob naming the field.
    """
    request = {
        "type": "image_generate",
        "prompt": prompt if isinstance(prompt, str) else list(prompt),
        **{name: value for name, value in fields.items() if value is not None},
    }
    parse(request, GENEROUS)
    return request


def evaluate_input(fields: Mapping[str, Any]) -> dict[str, Any]:
    """The `input` of a bridge_evaluate; fields that are None are left to the endpoint.

    Raises darkroom.errors.BadJob naming the field.
    """
    request = {"type": "bridge_evaluate", **{name: value for name, value in fields.items() if value is not None}}
    parse(request, GENEROUS)
    return request
