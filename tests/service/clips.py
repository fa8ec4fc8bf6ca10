"""Small clips for video_edit: a square that moves over a gradient."""

from __future__ import annotations

import io
import zipfile
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from darkroom.media import edge_map, encode_image, write_mp4
from tests.service.conftest import data_uri


def frame(number: int, size: tuple[int, int] = (128, 128)) -> Image.Image:
    """Frame `number` of the clip, RGB."""
    width, height = size
    ramp = np.linspace(40, 120, width)[None, :, None] * np.ones((height, 1, 3))
    pixels = ramp.astype(np.uint8)
    left = 10 + 6 * (number % 12)
    pixels[height // 3 : 2 * height // 3, left : left + width // 4] = (220, 60, 40)
    return Image.fromarray(pixels)


def png(image: Image.Image) -> bytes:
    return encode_image(image, "png")[0]


def picture(number: int = 0, size: tuple[int, int] = (128, 128)) -> str:
    return data_uri(png(frame(number, size)), "image/png")


def edge_frame(number: int, size: tuple[int, int] = (128, 128)) -> str:
    return data_uri(png(edge_map(frame(number, size))), "image/png")


def edge_list(count: int, size: tuple[int, int] = (128, 128)) -> list[str]:
    return [edge_frame(number, size) for number in range(1, count + 1)]


def zipped(files: dict[str, bytes]) -> str:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return data_uri(buffer.getvalue(), "application/zip")


def movie(folder: Path, count: int, edges: bool = False, size: tuple[int, int] = (128, 128), fps: int = 6) -> str:
    path = folder / f"movie-{count}-{edges}-{size[0]}.mp4"
    images = (frame(number, size) for number in range(count))
    write_mp4(path, (edge_map(image) if edges else image for image in images), Fraction(fps))
    return data_uri(path.read_bytes(), "video/mp4")


def video_job(job_id: str = "clip-1", **fields: Any) -> dict[str, Any]:
    """A cheap video_edit as RunPod hands it to a handler."""
    given = {
        "type": "video_edit",
        "init_image": picture(),
        "prompt": "draw the next frame following the edges",
        "seed": 5,
        "num_inference_steps": 2,
        "negative_prompt": "",
        **fields,
    }
    return {"id": job_id, "input": {name: value for name, value in given.items() if value is not None}}
