"""The pocket Qwen3-VL: the real classes at pocket size, with DeepStack at three levels.

A merged cell of its vision tower is 64 × 64 pixels, twice as long as the pocket Qwen2.5-VL's: on the same grid of cells
it sees four times as many pixels, and so marks that the other misses.
"""

from pathlib import Path

import torch
from transformers import (
    Qwen2Tokenizer,
    Qwen2VLImageProcessor,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
    Qwen3VLProcessor,
    Qwen3VLVideoProcessor,
)

from darkroom.pocket.family import CHAT_TEMPLATE, MAX_SHARD_SIZE, TEXT_WIDTH, VOCABULARY_SIZE, declare_float32, token_id
from darkroom.pocket.tokens import train_tokenizer

PATCH_PIXELS = 16
MERGE = 4
CELL_PIXELS = PATCH_PIXELS * MERGE
# After which of the tower's six blocks a level leaves for the language model: early, middle and late.
DEEPSTACK = (1, 3, 4)


def build(folder: Path, seed: int = 0) -> Path:
    """Write a complete folder with random weights; the same seed writes the same bytes."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        tokenizer = train_tokenizer()
        save(make_model(tokenizer), make_processor(tokenizer), folder)
    return folder


def make_model(tokenizer: Qwen2Tokenizer) -> Qwen3VLForConditionalGeneration:
    """Drawn from torch's global generator: float32, 6.0 M parameters, most of them where 4 × 4 patches are merged."""
    config = Qwen3VLConfig(
        text_config={
            "vocab_size": VOCABULARY_SIZE,
            "hidden_size": TEXT_WIDTH,
            "intermediate_size": 320,
            # DeepStack's levels are added after the first three.
            "num_hidden_layers": 4,
            "num_attention_heads": 4,
            "num_key_value_heads": 4,
            "head_dim": 32,
            "max_position_embeddings": 4096,
            "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [4, 6, 6]},
            "bos_token_id": token_id(tokenizer, "<|endoftext|>"),
            "eos_token_id": token_id(tokenizer, "<|im_end|>"),
            "pad_token_id": token_id(tokenizer, "<|endoftext|>"),
        },
        vision_config={
            "depth": 6,
            "hidden_size": 64,
            "intermediate_size": 160,
            "num_heads": 4,
            "patch_size": PATCH_PIXELS,
            "spatial_merge_size": MERGE,
            "temporal_patch_size": 2,
            "out_hidden_size": TEXT_WIDTH,
            "num_position_embeddings": 16 * 16,
            "deepstack_visual_indexes": list(DEEPSTACK),
        },
        image_token_id=token_id(tokenizer, "<|image_pad|>"),
        video_token_id=token_id(tokenizer, "<|video_pad|>"),
        vision_start_token_id=token_id(tokenizer, "<|vision_start|>"),
        vision_end_token_id=token_id(tokenizer, "<|vision_end|>"),
        tie_word_embeddings=True,
    )
    model = Qwen3VLForConditionalGeneration(config)
    model.eval()
    return model


def make_processor(tokenizer: Qwen2Tokenizer) -> Qwen3VLProcessor:
    """Pictures of any size from one merged cell up to 512²."""
    limits = {"shortest_edge": CELL_PIXELS**2, "longest_edge": 512 * 512}
    return Qwen3VLProcessor(
        image_processor=Qwen2VLImageProcessor(
            patch_size=PATCH_PIXELS, merge_size=MERGE, size=limits, image_mean=[0.5] * 3, image_std=[0.5] * 3
        ),
        tokenizer=tokenizer,
        video_processor=Qwen3VLVideoProcessor(patch_size=PATCH_PIXELS, merge_size=MERGE, size=limits),
        chat_template=CHAT_TEMPLATE,
    )


def save(model: Qwen3VLForConditionalGeneration, processor: Qwen3VLProcessor, folder: Path) -> None:
    """Write model and processor under `folder`: float16 weights, float32 when loaded."""
    folder.mkdir(parents=True, exist_ok=True)
    weights = {name: value.detach().clone() for name, value in model.state_dict().items()}
    try:
        model.half().save_pretrained(folder, safe_serialization=True, max_shard_size=MAX_SHARD_SIZE)
    finally:
        model.float().load_state_dict(weights)
    processor.save_pretrained(folder)
    declare_float32(folder / "config.json")
