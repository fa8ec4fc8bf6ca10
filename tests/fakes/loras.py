"""Small LoRAs that fit a transformer, drawn from a seed."""

from __future__ import annotations

from typing import Any

import torch
from safetensors.torch import save


def random_lora(transformer: Any, strength: float = 0.1, rank: int = 4, seed: int = 0) -> dict[str, torch.Tensor]:
    """Matrices for the attention projections of every block, in the names that diffusers saves."""
    generator, width = torch.Generator().manual_seed(seed), transformer.inner_dim
    weights = {}
    for block in range(len(transformer.transformer_blocks)):
        for layer in ("to_q", "to_v"):
            name = f"transformer.transformer_blocks.{block}.attn.{layer}"
            weights[f"{name}.lora_A.weight"] = strength * torch.randn(rank, width, generator=generator)
            weights[f"{name}.lora_B.weight"] = strength * torch.randn(width, rank, generator=generator)
    return weights


def random_lora_bytes(transformer: Any, strength: float = 0.1) -> bytes:
    """The same as the bytes of a safetensors file."""
    return save(random_lora(transformer, strength))
