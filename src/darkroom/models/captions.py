"""Pictures in words, by the vision model itself: the whole of it with its language head, while it is asked."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from darkroom.errors import ModelNotReady
from darkroom.models.parts import header
from darkroom.models.precision import compute_dtype, quantise
from darkroom.models.specs import Precision
from darkroom.models.vision import expected_bytes

QUESTION = "Describe the picture"
MOST_TOKENS = 80


class Describer:
    """Qwen3-VL or Qwen2.5-VL with its language head; one picture and one greedy answer at a time."""

    def __init__(self, folder: Path, device: torch.device, precision: Precision) -> None:
        from transformers import AutoModelForImageTextToText, AutoProcessor

        try:
            model: Any = AutoModelForImageTextToText.from_pretrained(folder, dtype=compute_dtype(precision))
            self._processor: Any = AutoProcessor.from_pretrained(folder)
        except (OSError, ValueError, KeyError) as error:
            raise ModelNotReady(f"the vision model {folder.name!r} cannot be asked for captions") from error
        model.eval().requires_grad_(False)
        quantise(model.model, "vision", precision)  # as where the tower looks: the head alone stays as it was
        self._model: Any = model.to(device)

    @torch.no_grad()
    def describe(self, picture: Image.Image, question: str = QUESTION) -> str:
        """What the model says of an RGB picture, at most MOST_TOKENS tokens of it."""
        turn = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": question}]}]
        text = self._processor.apply_chat_template(turn, add_generation_prompt=True)
        inputs = self._processor(text=[text], images=[picture], return_tensors="pt").to(self._model.device)
        ids = self._model.generate(**inputs, max_new_tokens=MOST_TOKENS, do_sample=False)
        answer = self._processor.tokenizer.decode(ids[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
        return str(answer).strip()


def described_bytes(folder: Path, precision: Precision) -> int:
    """What a Describer of this folder takes: the vision model, and its language head unquantised."""
    named = [entry for path in sorted(folder.glob("*.safetensors")) for entry in header(path)]
    head = sum(math.prod(shape) for name, shape in named if "lm_head" in name) * compute_dtype(precision).itemsize
    return expected_bytes(folder, precision, True) + head


def describe_all(
    folder: Path, device: torch.device, precision: Precision, pictures: Sequence[Image.Image]
) -> list[str]:
    """A caption for each picture; the model is let go afterwards."""
    describer = Describer(folder, device, precision)
    return [describer.describe(picture) for picture in pictures]
