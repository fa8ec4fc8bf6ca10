"""A LoRA's own strength, alpha / r, where its file says it in the header and not in tensors, as diffusers writes it."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

from peft.utils.other import get_pattern_key
from torch import Tensor

PREFIX = "transformer."
HEADER = "lora_adapter_metadata"
_UP = ".lora_B.weight"


def settings_of(data: bytes) -> dict[str, Any]:
    """What the header of a safetensors file says of its adapter in the transformer: peft's LoraConfig; {} for nothing.

    Raises ValueError where it says something that is no such thing.
    """
    length = int.from_bytes(data[:8], "little")
    told = json.loads(data[8 : 8 + length]).get("__metadata__", {}).get(HEADER)
    settings = {} if told is None else json.loads(told)
    if not isinstance(settings, dict):
        raise ValueError(f"{HEADER} is no object")
    return {name.removeprefix(PREFIX): value for name, value in settings.items() if name.startswith(PREFIX)}


def with_own_alpha(weights: Mapping[str, Tensor], settings: Mapping[str, Any]) -> dict[str, Tensor]:
    """The matrices with alpha / r (alpha / sqrt(r) of a rank-stabilised one) multiplied into their upper halves.

    So every layer that wears them, also one whose modulation is folded, has the strength that they were trained with.
    `alpha_pattern` is matched as peft matches it. Raises ValueError for an alpha that is no number.
    """
    if settings.get("lora_alpha") is None:
        return dict(weights)
    return {name: tensor * _strength(name, tensor, settings) if name.endswith(_UP) else tensor
            for name, tensor in weights.items()}  # fmt: skip


def _strength(name: str, up: Tensor, settings: Mapping[str, Any]) -> float:
    """up: [out, r]."""
    patterns = settings.get("alpha_pattern") or {}
    layer = name.removeprefix(PREFIX).removesuffix(_UP)
    alpha, rank = patterns.get(get_pattern_key(list(patterns), layer), settings["lora_alpha"]), up.shape[1]
    if isinstance(alpha, bool) or not isinstance(alpha, int | float) or not math.isfinite(alpha):
        raise ValueError(f"alpha of {layer} is no number")
    return float(alpha / (math.sqrt(rank) if settings.get("use_rslora") else rank))
