"""Qwen2.5-VL inside Qwen-Image-Edit: what it sees of pictures, and a prompt read beside them.

Sight and reading are apart so that pictures are looked at once for many prompts, and so that a bridge can put
other visual tokens in place of the model's own.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from PIL.Image import Image
from torch import Tensor

from darkroom.errors import Internal

SYSTEM = (
    "Describe the key features of the input image (color, shape, size, texture, objects, background), then explain "
    "how the user's text instruction should alter or modify the image. Generate a new image that meets the user's "
    "requirements while maintaining consistency with the original input where appropriate."
)
"""Qwen-Image-Edit's own system prompt; the model was trained behind it, word for word."""

PREFIX = f"<|im_start|>system\n{SYSTEM}<|im_end|>\n<|im_start|>user\n"
SUFFIX = "<|im_end|>\n<|im_start|>assistant\n"
IMAGE_PAD = "<|image_pad|>"
MAX_TEXT_TOKENS = 1024
"""Longest prompt in tokens, pictures apart, that the family was trained with."""


@dataclass(frozen=True)
class VisualTokens:
    """What the vision tower says of the pictures.

    tokens: [sum of n_i, D], merged 2 x 2, rows first.
    grids: [pictures, 3], patches (time, height, width) before merging.
    bridged: how many of the tokens a bridge has put in place of the tower's own.
    """

    tokens: Tensor
    grids: Tensor
    bridged: int = 0


class PromptTooLong(ValueError):
    """A prompt of more than MAX_TEXT_TOKENS tokens."""


def prefix_length(tokenizer: Any) -> int:
    """How many tokens the template puts before the user's turn; they are cut off the embeddings.

    64 with Qwen's tokenizer, which a wrong tokenizer is recognised by. Raises ValueError otherwise.
    """
    length = len(tokenizer(PREFIX)["input_ids"])
    if length != 64:
        raise ValueError(f"the tokenizer splits the edit template into {length} prefix tokens, Qwen's into 64")
    return length


def look(text_encoder: Any, processor: Any, images: Sequence[Image]) -> VisualTokens:
    """Run the vision tower over 1-3 RGB pictures, once for any number of prompts."""
    inputs = processor.image_processor(images=list(images), return_tensors="pt")
    grids = inputs["image_grid_thw"].to(text_encoder.device)
    features = text_encoder.model.get_image_features(inputs["pixel_values"].to(text_encoder.device), grids)
    tokens = getattr(features, "pooler_output", features)
    return VisualTokens(tokens if isinstance(tokens, Tensor) else torch.cat(list(tokens)), grids)


def encode_text(text_encoder: Any, processor: Any, prompt: str, visual: VisualTokens) -> Tensor:
    """[L, D]: the last hidden states of template, pictures and prompt, with 3-D positions for the pictures.

    Raises PromptTooLong.
    """
    ids = _token_ids(text_encoder, processor, prompt, visual)
    is_picture = ids == text_encoder.config.image_token_id
    embeds = text_encoder.get_input_embeddings()(ids)
    embeds = embeds.masked_scatter(is_picture.unsqueeze(-1), visual.tokens.to(embeds.dtype))
    # Without mm_token_type_ids transformers >= 5 falls back to text positions and says nothing (diffusers 14194).
    positions, _ = text_encoder.model.get_rope_index(
        ids, mm_token_type_ids=is_picture.int(), image_grid_thw=visual.grids, attention_mask=torch.ones_like(ids)
    )
    with arriving(text_encoder, is_picture, visual):
        output = text_encoder.model.language_model(inputs_embeds=embeds, position_ids=positions, use_cache=False)
    return torch.as_tensor(output.last_hidden_state[0])


@contextmanager
def arriving(text_encoder: Any, is_picture: Tensor, visual: VisualTokens) -> Iterator[None]:
    """Make sure that bridged tokens are what the language model reads in here; a bridge is never lost in silence.

    Raises Internal where it read anything else at the pictures' places `is_picture` [1, L], or did not run.
    """
    if not visual.bridged:
        yield
        return
    arrived: list[bool] = []

    def compare(_module: Any, _inputs: Any, named: dict[str, Any]) -> None:
        read = named["inputs_embeds"][is_picture]
        arrived.append(read.shape == visual.tokens.shape and bool((read == visual.tokens.to(read)).all()))

    hook = text_encoder.model.language_model.register_forward_pre_hook(compare, with_kwargs=True)
    try:
        yield
    finally:
        hook.remove()
    if arrived != [True] or visual.bridged != len(visual.tokens):
        raise Internal("the bridged tokens did not reach the text encoder, so that the picture would be the baseline's")


def _token_ids(text_encoder: Any, processor: Any, prompt: str, visual: VisualTokens) -> Tensor:
    """[1, L] with one picture token per visual token, as Qwen2VLProcessor lays them out."""
    merged = (visual.grids.prod(-1) // processor.image_processor.merge_size**2).tolist()
    pictures = "".join(
        f"Picture {i}: <|vision_start|>{IMAGE_PAD * count}<|vision_end|>" for i, count in enumerate(merged, 1)
    )
    ids = processor.tokenizer(PREFIX + pictures + plain(processor.tokenizer, prompt) + SUFFIX)["input_ids"]
    if len(ids) - sum(merged) > MAX_TEXT_TOKENS:
        raise PromptTooLong(f"has {len(ids) - sum(merged)} tokens with its template, the limit is {MAX_TEXT_TOKENS}")
    return torch.tensor([ids], device=text_encoder.device)


def plain(tokenizer: Any, prompt: str) -> str:
    """The prompt with a blank for every control token, which could forge pictures or turns of the conversation."""
    for token in sorted(tokenizer.get_added_vocab(), key=len, reverse=True):
        prompt = prompt.replace(token, " ")
    return prompt
