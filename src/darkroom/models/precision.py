"""How a part's weights are stored and computed with."""

from __future__ import annotations

from typing import Any

import torch

from darkroom.errors import ModelNotReady
from darkroom.models.specs import Precision

# Storage in FP8 is for matrices; norms, embeddings and the first and last projections keep their precision. The
# language head may share its matrix with the embeddings and would take them along.
KEEP = (
    "norm",
    "pos_embed",
    "patch_embed",
    "embed_tokens",
    "lm_head",
    "img_in",
    "txt_in",
    "time_text_embed",
    "proj_out",
    "merger",
)


def compute_dtype(precision: Precision) -> torch.dtype:
    """What activations are computed in."""
    return torch.float32 if precision == "float32" else torch.bfloat16


def store_in_fp8(module: Any) -> Any:
    """Keep matrices as float8_e4m3fn and widen each while it computes: half of bf16's memory, no more speed."""
    from diffusers.hooks.layerwise_casting import apply_layerwise_casting

    apply_layerwise_casting(
        module,
        storage_dtype=torch.float8_e4m3fn,
        compute_dtype=next(module.parameters()).dtype,
        skip_modules_pattern=KEEP,
    )
    return module


def four_bit() -> Any:
    """NF4 for the transformer by bitsandbytes, through diffusers' loader. Raises ModelNotReady without it."""
    from importlib.util import find_spec

    from diffusers import BitsAndBytesConfig

    if find_spec("bitsandbytes") is None:
        raise ModelNotReady("profile rtx3090 loads the transformer in 4 bits: install the package bitsandbytes")
    return BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.bfloat16)
