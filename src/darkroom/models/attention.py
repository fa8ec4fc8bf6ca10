"""Which kernel computes the transformer's attention: by hardware, or as the settings say."""

from __future__ import annotations

from typing import Any

import torch

from darkroom.errors import ModelNotReady
from darkroom.settings import AttentionName

BACKENDS: dict[AttentionName, str] = {
    "native": "native", "cudnn": "_native_cudnn", "flash": "flash", "flash3": "_flash_3",
}  # fmt: skip
"""Names of the setting -> diffusers' names."""


def use_attention(transformer: Any, name: AttentionName) -> None:
    """Set the backend on a transformer, "auto" by its device. Raises ModelNotReady for one that is not installed."""
    chosen = best(transformer.device, transformer.img_in.bias.dtype) if name == "auto" else name
    try:
        transformer.set_attention_backend(BACKENDS[chosen])
    except (RuntimeError, ImportError, ValueError) as error:
        raise ModelNotReady(f"DARKROOM_ATTENTION={name} does not work on this worker: {error}") from error


def best(device: torch.device, dtype: torch.dtype = torch.bfloat16) -> AttentionName:
    """cuDNN's kernel from Hopper on, which is ahead there and takes 16 bits alone; else torch's own choice."""
    if device.type == "cuda" and dtype.itemsize == 2 and torch.cuda.get_device_capability(device) >= (9, 0):
        return "cudnn"
    return "native"
