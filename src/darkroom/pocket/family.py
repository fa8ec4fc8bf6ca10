"""The pocket family: every part of a Qwen-Image-Edit checkpoint, from the real classes, at pocket size."""

import copy
import json
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKLQwenImage,
    FlowMatchEulerDiscreteScheduler,
    QwenImageEditPlusPipeline,
    QwenImageTransformer2DModel,
)
from transformers import (
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2Tokenizer,
    Qwen2VLImageProcessor,
    Qwen2VLProcessor,
    Qwen2VLVideoProcessor,
)

from darkroom.pocket.folders import is_family, replaced
from darkroom.pocket.tokens import train_tokenizer

# The pixel area at which Qwen2.5-VL sees a reference and at which the VAE encodes it (real: 384**2 and 1024**2).
CONDITION_AREA = 128 * 128
VAE_AREA = 128 * 128

TEXT_WIDTH = 128
# Room for words of later worlds; the tokenizer fills the first 1,215 rows.
VOCABULARY_SIZE = 1280
PATCH_PIXELS = 16

# Files stay under 15 MB each, so that they sit in a repository.
MAX_SHARD_SIZE = "14MB"

# What the libraries note down about a part's last loading.
_ORIGIN = frozenset({"_name_or_path", "is_local", "local_files_only"})

# Qwen2.5-VL's own, without its tools, dates and video.
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{% if loop.first and message['role'] != 'system' %}<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
    "{% endif %}<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}"
    "{% else %}{% for content in message['content'] %}"
    "{% if content['type'] == 'image' or 'image' in content %}<|vision_start|><|image_pad|><|vision_end|>"
    "{% elif 'text' in content %}{{ content['text'] }}{% endif %}{% endfor %}{% endif %}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def build(folder: Path, seed: int = 0) -> Path:
    """Write a complete diffusers folder with random weights; the same seed writes the same bytes.

    The folder loads with `QwenImageEditPlusPipeline.from_pretrained(folder)`, in float32 (float16 on disk). Random
    weights make noise: what edits is the trained family under `weights/`.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        pipeline = assemble()
    save(pipeline, folder)
    return folder


def assemble() -> QwenImageEditPlusPipeline:
    """The pocket family in memory: float32, on the CPU, drawn from torch's global generator."""
    tokenizer = train_tokenizer()
    return QwenImageEditPlusPipeline(
        scheduler=make_scheduler(),
        vae=make_vae(),
        text_encoder=make_text_encoder(tokenizer),
        tokenizer=tokenizer,
        processor=make_processor(tokenizer),
        transformer=make_transformer(),
    )


def make_scheduler() -> FlowMatchEulerDiscreteScheduler:
    """Qwen-Image-Edit-2511's scheduler, value for value."""
    return FlowMatchEulerDiscreteScheduler(
        num_train_timesteps=1000,
        shift=1.0,
        use_dynamic_shifting=True,
        base_shift=0.5,
        max_shift=0.9,
        base_image_seq_len=256,
        max_image_seq_len=8192,
        shift_terminal=0.02,
        time_shift_type="exponential",
    )


def make_vae() -> AutoencoderKLQwenImage:
    """8 × 8 pixels to one cell of 16 channels; training replaces the latents' mean and std."""
    return AutoencoderKLQwenImage(
        base_dim=16,
        z_dim=16,
        dim_mult=[1, 2, 4, 4],
        num_res_blocks=1,
        latents_mean=[0.0] * 16,
        latents_std=[1.0] * 16,
    )


def make_transformer() -> QwenImageTransformer2DModel:
    """Width 192 in 6 heads, 2511's form. A sixth layer would make it 8.2 M parameters, above the budget of 8 M."""
    return QwenImageTransformer2DModel(
        patch_size=2,
        in_channels=64,
        out_channels=16,
        num_layers=5,
        attention_head_dim=32,
        num_attention_heads=6,
        joint_attention_dim=TEXT_WIDTH,
        axes_dims_rope=(8, 12, 12),
        zero_cond_t=True,
    )


def make_text_encoder(tokenizer: Qwen2Tokenizer) -> Qwen2_5_VLForConditionalGeneration:
    """Qwen2.5-VL with two text layers and a four-layer vision tower whose merged cells are 32 × 32 pixels."""
    tokens = {name: token_id(tokenizer, f"<|{name}|>") for name in ("image_pad", "video_pad", "vision_start")}
    config = Qwen2_5_VLConfig(
        text_config=_text_config(tokenizer),
        vision_config=_vision_config(),
        image_token_id=tokens["image_pad"],
        video_token_id=tokens["video_pad"],
        vision_start_token_id=tokens["vision_start"],
        vision_end_token_id=token_id(tokenizer, "<|vision_end|>"),
        tie_word_embeddings=True,
    )
    model = Qwen2_5_VLForConditionalGeneration(config)
    model.eval()
    return model


def make_processor(tokenizer: Qwen2Tokenizer) -> Qwen2VLProcessor:
    """Pictures to patches of 16 pixels, merged 2 × 2; any size down to one merged cell and up to 512²."""
    limits = {"shortest_edge": (2 * PATCH_PIXELS) ** 2, "longest_edge": 512 * 512}
    return Qwen2VLProcessor(
        image_processor=Qwen2VLImageProcessor(patch_size=PATCH_PIXELS, merge_size=2, size=limits),
        tokenizer=tokenizer,
        video_processor=Qwen2VLVideoProcessor(patch_size=PATCH_PIXELS, merge_size=2, size=limits),
        chat_template=CHAT_TEMPLATE,
    )


def save(pipeline: QwenImageEditPlusPipeline, folder: Path) -> None:
    """Put every part of `pipeline` in the place of `folder`: float16, in files of at most 14 MB, float32 when loaded.

    Who is killed meanwhile loses nothing (`folders.replaced`). Raises ValueError where `folder` holds anything but a
    family: nothing of it is touched.
    """
    folder = folder.resolve()
    if folder.exists() and not (is_family(folder) or (folder.is_dir() and not any(folder.iterdir()))):
        raise ValueError(f"{folder} holds something else than a family; name a new or an empty folder")
    # Saving leaves notes in the tokenizer, which the next saving would write down.
    half = copy.deepcopy(pipeline)
    for model in (half.vae, half.text_encoder, half.transformer):
        model.half()
    with replaced(folder) as unfinished:
        half.save_pretrained(unfinished, safe_serialization=True, max_shard_size=MAX_SHARD_SIZE)
        declare_float32(unfinished / "text_encoder" / "config.json")
        for config in unfinished.rglob("*.json"):
            _forget_origin(config)


def _forget_origin(config: Path) -> None:
    """Where a part was loaded from is of no use elsewhere, and nobody's business."""
    values = json.loads(config.read_text())
    kept = {name: value for name, value in values.items() if name not in _ORIGIN}
    if kept != values:
        config.write_text(json.dumps(kept, indent=2, ensure_ascii=False) + "\n")


def declare_float32(config: Path) -> None:
    """transformers loads what the config declares, and would compute in float16 on the CPU."""
    values = json.loads(config.read_text())
    for part in (values, *(part for part in values.values() if isinstance(part, dict))):
        if "dtype" in part:
            part["dtype"] = "float32"
    config.write_text(json.dumps(values, indent=2, sort_keys=True) + "\n")


def _text_config(tokenizer: Qwen2Tokenizer) -> dict[str, Any]:
    return {
        "vocab_size": VOCABULARY_SIZE,
        "hidden_size": TEXT_WIDTH,
        "intermediate_size": 320,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 4,
        "max_position_embeddings": 4096,
        # One part in four for time, three in eight for each axis, as the real [16, 24, 24] of 64.
        "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [4, 6, 6]},
        "bos_token_id": token_id(tokenizer, "<|endoftext|>"),
        "eos_token_id": token_id(tokenizer, "<|im_end|>"),
        "pad_token_id": token_id(tokenizer, "<|endoftext|>"),
    }


def _vision_config() -> dict[str, Any]:
    return {
        "depth": 4,
        "hidden_size": 64,
        "intermediate_size": 160,
        "num_heads": 4,
        "patch_size": PATCH_PIXELS,
        "spatial_merge_size": 2,
        "temporal_patch_size": 2,
        "window_size": 4 * PATCH_PIXELS,
        "fullatt_block_indexes": [1, 3],
        "out_hidden_size": TEXT_WIDTH,
    }


def token_id(tokenizer: Qwen2Tokenizer, token: str) -> int:
    number = tokenizer.convert_tokens_to_ids(token)
    assert isinstance(number, int)
    return number
