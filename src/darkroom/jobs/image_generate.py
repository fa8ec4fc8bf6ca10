"""`image_generate`: pictures from text alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

from darkroom.jobs.image_edit import PictureJob


class ImageGenerate(PictureJob):
    """Make pictures by one or several prompts. A size of "native" is a square of the model's own area."""

    own_size: ClassVar[str] = "native"
    useless: ClassVar[Mapping[str, str]] = {
        **PictureJob.useless,
        "images": "image_generate makes pictures from text alone; image_edit takes images",
        "preset": "image_generate has none; use num_inference_steps and true_cfg_scale",
    }

    type: Literal["image_generate"]
    size: str = "native"
