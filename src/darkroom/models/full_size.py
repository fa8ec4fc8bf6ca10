"""The architecture of Qwen-Image-Edit-2511 at full size, without weights: for arithmetic and measuring.

Sizes are those of the published configurations (Qwen/Qwen-Image-Edit-2511, Qwen/Qwen2.5-VL-7B-Instruct).
"""

from __future__ import annotations

from typing import Any

from darkroom.models.placement import PARTS, Weight, shapes, weigh
from darkroom.models.specs import Precision

TRANSFORMER: dict[str, Any] = {
    "patch_size": 2,
    "in_channels": 64,
    "out_channels": 16,
    "num_layers": 60,
    "attention_head_dim": 128,
    "num_attention_heads": 24,
    "joint_attention_dim": 3584,
    "axes_dims_rope": (16, 56, 56),
    "guidance_embeds": False,
    "zero_cond_t": True,
}

TEXT_ENCODER: dict[str, Any] = {
    "text_config": {
        "hidden_size": 3584,
        "intermediate_size": 18944,
        "num_hidden_layers": 28,
        "num_attention_heads": 28,
        "num_key_value_heads": 4,
        "vocab_size": 152064,
        "max_position_embeddings": 128000,
        "rms_norm_eps": 1e-6,
        "rope_parameters": {"rope_type": "default", "mrope_section": [16, 24, 24], "rope_theta": 1_000_000.0},
    },
    "vision_config": {
        "depth": 32,
        "hidden_size": 1280,
        "intermediate_size": 3420,
        "num_heads": 16,
        "out_hidden_size": 3584,
        "patch_size": 14,
        "spatial_merge_size": 2,
        "temporal_patch_size": 2,
        "window_size": 112,
        "fullatt_block_indexes": [7, 15, 23, 31],
        "tokens_per_second": 2,
    },
    "tie_word_embeddings": False,
}


def on_meta(part: str) -> Any:
    """A part at full size with its parameters on the meta device: no memory, no values."""
    from accelerate import init_empty_weights
    from diffusers import AutoencoderKLQwenImage, QwenImageTransformer2DModel
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

    with init_empty_weights():
        if part == "transformer":
            return QwenImageTransformer2DModel(**TRANSFORMER)
        if part == "text_encoder":
            return Qwen2_5_VLForConditionalGeneration(Qwen2_5_VLConfig(**TEXT_ENCODER))
        return AutoencoderKLQwenImage()


def weights(precision: Precision) -> dict[str, Weight]:
    """What each part weighs at full size in this precision, by where it is kept."""
    return {part: weigh(part, shapes(on_meta(part)), precision) for part in PARTS}
