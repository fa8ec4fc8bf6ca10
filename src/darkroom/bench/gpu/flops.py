"""The work of the transformer by formula, in floating-point operations (two per multiplication and addition)."""

from __future__ import annotations

from typing import Any


def forward_flops(config: dict[str, Any], image_tokens: int, text_tokens: int) -> int:
    """One forward of diffusers' QwenImageTransformer2DModel for one image: every matrix product and both of attention.

    image_tokens: noisy and reference tokens together. Equal to what torch's FlopCounterMode counts. Per layer and
    token 12 products of d × d (query, key, value, output, 8 for the MLP) and 4 · d for each pair of tokens in
    attention; image and text have weights of their own and the same shapes. Modulation, 12 products for one or two
    rows per stream, is a thousandth of it in work, and a third of the weights.
    """
    d = config["num_attention_heads"] * config["attention_head_dim"]
    tokens = image_tokens + text_tokens
    rows = 2 if config["zero_cond_t"] else 1
    modulation = 2 * 6 * d * d * (rows + 1)
    layer = 2 * 12 * d * d * tokens + 4 * d * tokens**2 + modulation
    inputs = 2 * d * (config["in_channels"] * image_tokens + config["joint_attention_dim"] * text_tokens)
    time = 2 * (256 * d + d * d) * rows
    output = 2 * 2 * d * d + 2 * d * config["patch_size"] ** 2 * config["out_channels"] * image_tokens
    return int(config["num_layers"] * layer + inputs + time + output)
