"""Qwen-Image: pictures from text alone, by the parts that also edit.

It differs from editing in the template around the prompt and in having no reference pictures; the denoising loop is
the editor's own. For one prompt and one seed the result equals `QwenImagePipeline`'s bit for bit in float32 on the CPU.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from darkroom.models.editor import Conditioning, Editor, References
from darkroom.models.sight import MAX_TEXT_TOKENS, PromptTooLong, VisualTokens, plain

SYSTEM = (
    "Describe the image by detailing the color, shape, size, texture, quantity, text, spatial relationships of the "
    "objects and background:"
)
"""Qwen-Image's own system prompt; the model was trained behind it, word for word."""

PREFIX = f"<|im_start|>system\n{SYSTEM}<|im_end|>\n<|im_start|>user\n"
SUFFIX = "<|im_end|>\n<|im_start|>assistant\n"
PREFIX_TOKENS = 34
"""What diffusers drops, whatever the tokenizer."""


def prefix_length(tokenizer: Any) -> int:
    """How many tokens the template puts before the prompt; they are cut off the embeddings.

    34 with Qwen's tokenizer. Raises ValueError otherwise: what diffusers drops would not be the template.
    """
    length = len(tokenizer(PREFIX)["input_ids"])
    if length != PREFIX_TOKENS:
        raise ValueError(f"the tokenizer splits the template into {length} prefix tokens, Qwen's into {PREFIX_TOKENS}")
    return length


@torch.no_grad()
def embed(editor: Editor, prompt: str) -> Tensor:
    """[L, D]: a prompt's embeddings without the template's prefix. Raises PromptTooLong."""
    return editor.encodings.prompt(prompt, _no_sight(editor), partial(_read, editor, prompt))


def condition(editor: Editor, prompts: Sequence[str], negative_prompt: str | None = None) -> Conditioning:
    """A batch of one image per prompt; equal prompts are embedded once. Raises PromptTooLong.

    negative_prompt: embedded when given (None where CFG is off).
    """
    embedded = {prompt: embed(editor, prompt) for prompt in dict.fromkeys(prompts)}
    negative = None if negative_prompt is None else embed(editor, negative_prompt)
    return Conditioning(tuple(embedded[prompt] for prompt in prompts), negative, no_references(editor))


def no_references(editor: Editor) -> References:
    """No pictures at all; an output of no given size is square."""
    latents = torch.zeros(1, 0, 4 * editor.vae.config.z_dim, dtype=editor.dtype, device=editor.device)
    return References(_no_sight(editor), latents, (), (1, 1))


def tokens(editor: Editor, prompt: str) -> list[int]:
    """Token ids of the template around a prompt, in which control tokens count as blanks. Raises PromptTooLong."""
    tokenizer = editor.processor.tokenizer
    ids: list[int] = tokenizer(PREFIX + plain(tokenizer, prompt) + SUFFIX)["input_ids"]
    if len(ids) - prefix_length(tokenizer) > MAX_TEXT_TOKENS:
        raise PromptTooLong(
            f"has {len(ids) - PREFIX_TOKENS} tokens with the template's end, the limit is {MAX_TEXT_TOKENS}"
        )
    return ids


def _read(editor: Editor, prompt: str) -> Tensor:
    editor.residency.use(editor.text_encoder)  # first: where parts come and go, it says where the ids must lie
    ids = torch.tensor([tokens(editor, prompt)], device=editor.text_encoder.device)
    embeds = editor.text_encoder.get_input_embeddings()(ids)
    output = editor.text_encoder.model.language_model(inputs_embeds=embeds, use_cache=False)
    return torch.as_tensor(output.last_hidden_state[0, PREFIX_TOKENS:])


def _no_sight(editor: Editor) -> VisualTokens:
    width = editor.text_encoder.config.text_config.hidden_size
    return VisualTokens(torch.zeros(0, width), torch.zeros(0, 3, dtype=torch.long))
