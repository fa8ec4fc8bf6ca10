"""The two sizes at which the benchmark runs: the published architecture, and one that a CPU runs in seconds."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from darkroom.models import full_size
from darkroom.models.areas import Areas


@dataclass(frozen=True)
class Size:
    """An architecture and what is asked of it.

    transformer, text_encoder, vae: keyword arguments of their configurations. sight_patch: pixels per side of a patch
    of Qwen2.5-VL. reference: pixels per side of the square picture that is edited. words: of the prompt.
    rounds: timed forwards per variant. edits: timed edits of each kind for the variants that matter most. matrix: rows
    of the square matrices whose product is the measured limit.
    """

    name: str
    device: str
    transformer: dict[str, Any]
    text_encoder: dict[str, Any]
    vae: dict[str, Any]
    areas: Areas
    sight_patch: int
    reference: int
    words: int
    rounds: int
    edits: int
    matrix: int

    def shallower(self, share: float) -> Size:
        """The same widths with a share of the layers of transformer and text encoder, at least one of each."""
        text = self.text_encoder["text_config"]
        layers = {"num_hidden_layers": max(1, round(text["num_hidden_layers"] * share))}
        return replace(
            self,
            transformer={**self.transformer, "num_layers": max(1, round(self.transformer["num_layers"] * share))},
            text_encoder={**self.text_encoder, "text_config": {**text, **layers}},
        )


FULL = Size(
    name="full",
    device="cuda",
    transformer=full_size.TRANSFORMER,
    text_encoder=full_size.TEXT_ENCODER,
    vae={},
    areas=Areas(),
    sight_patch=14,
    reference=1024,
    words=40,
    rounds=7,
    edits=2,
    matrix=8192,
)

SMALL = Size(
    name="small",
    device="cpu",
    transformer={
        **full_size.TRANSFORMER,
        "num_layers": 2,
        "attention_head_dim": 32,
        "num_attention_heads": 2,
        "joint_attention_dim": 64,
        "axes_dims_rope": (8, 12, 12),
    },
    text_encoder={
        "text_config": {
            "hidden_size": 64,
            "intermediate_size": 128,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 4,
            "vocab_size": 1280,
            "bos_token_id": 0,
            "eos_token_id": 0,
            "max_position_embeddings": 4096,
            "rope_parameters": {"rope_type": "default", "rope_theta": 10_000.0, "mrope_section": [2, 3, 3]},
        },
        "vision_config": {
            **full_size.TEXT_ENCODER["vision_config"],
            "depth": 2,
            "hidden_size": 64,
            "intermediate_size": 128,
            "num_heads": 4,
            "out_hidden_size": 64,
            "fullatt_block_indexes": [1],
        },
        "tie_word_embeddings": False,
    },
    vae={"base_dim": 8, "num_res_blocks": 1},
    areas=Areas(sight=64 * 64, vae=64 * 64),
    sight_patch=14,
    reference=64,
    words=8,
    rounds=2,
    edits=1,
    matrix=256,
)

# For loading alone: about 1 GB in bf16, which a disk notices and a CPU's memory does not.
MEDIUM = replace(
    SMALL,
    name="medium",
    transformer={
        **full_size.TRANSFORMER,
        "num_layers": 10,
        "num_attention_heads": 8,
        "joint_attention_dim": SMALL.transformer["joint_attention_dim"],
    },
)
