"""Which GPU a measurement was made on."""

from __future__ import annotations

from typing import Any

import torch

from darkroom.bench.gpu.clock import GIB


def card(device: str) -> dict[str, Any] | None:
    """Name, memory, capability and the versions of CUDA, cuDNN and Triton that torch uses; None for a CPU."""
    if device != "cuda":
        return None
    properties = torch.cuda.get_device_properties(0)
    return {
        "name": properties.name,
        "memory_gib": round(properties.total_memory / GIB, 1),
        "capability": [properties.major, properties.minor],
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),
    }
