"""A whole Qwen-Image-Edit with random weights, made on the device and never held twice.

Values matter in three ways only: none is zero (a GPU computes zeros faster), activations keep an ordinary size through
all layers, and every run draws the same, so that the outputs of two variants can be compared.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from darkroom.bench.gpu.size import Size
from darkroom.models.folding import from_reader
from darkroom.models.placement import EMBEDDINGS, PARTS, keep_embeddings_on_host, place, set_parameter
from darkroom.models.precision import compute_dtype, linears, replace_linear, scheme_of
from darkroom.models.specs import Precision
from darkroom.pocket.family import CHAT_TEMPLATE
from darkroom.pocket.tokens import train_tokenizer

AREA_LIMITS = {"shortest_edge": 28 * 28, "longest_edge": 2048 * 2048}


def processor_of(size: Size) -> Any:
    """Qwen2VLProcessor with Qwen2.5-VL's patches and the pocket model's tokenizer: token ids mean nothing here."""
    return _processor(size.sight_patch)


@cache
def _processor(patch: int) -> Any:
    from transformers import Qwen2VLImageProcessor, Qwen2VLProcessor, Qwen2VLVideoProcessor

    of_pictures = Qwen2VLImageProcessor(patch_size=patch, merge_size=2, size=AREA_LIMITS)
    of_films = Qwen2VLVideoProcessor(patch_size=patch, merge_size=2, size=AREA_LIMITS)
    tokenizer = train_tokenizer()
    return Qwen2VLProcessor(
        image_processor=of_pictures, tokenizer=tokenizer, video_processor=of_films, chat_template=CHAT_TEMPLATE
    )


def empty(size: Size, part: str, tokenizer: Any) -> Any:
    """A part's module in evaluation mode with its parameters on the meta device."""
    from accelerate import init_empty_weights
    from diffusers import AutoencoderKLQwenImage, QwenImageTransformer2DModel
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

    with init_empty_weights():
        if part == "transformer":
            module = QwenImageTransformer2DModel(**size.transformer)
        elif part == "vae":
            module = AutoencoderKLQwenImage(**size.vae)
        else:
            config: dict[str, Any] = {**size.text_encoder, **_token_ids(tokenizer)}
            module = Qwen2_5_VLForConditionalGeneration(Qwen2_5_VLConfig(**config))
    return module.eval().requires_grad_(False)


def random_part(
    size: Size, part: str, tokenizer: Any, precision: Precision, *, lean: bool, folded: bool = False
) -> Any:
    """A part on the size's device, stored in `precision`, one matrix at a time.

    lean: as the engine holds it: token embeddings in the computer's memory, no language head. Otherwise as diffusers'
    pipeline holds it. folded: without modulation weights, which are drawn when a table is computed.
    """
    module, device, dtype = empty(size, part, tokenizer), torch.device(size.device), compute_dtype(precision)
    if folded and part == "transformer":
        drawn = {name: tuple(parameter.shape) for name, parameter in module.named_parameters()}
        from_reader(module, lambda name: random_values(name, drawn[name], dtype, device), None)
    matrices: Mapping[str, nn.Linear] = {f"{name}.weight": linear for name, linear in linears(module)}
    for name, parameter in list(module.named_parameters()):
        kept = place(part, name) if lean else "device"
        if kept == "dropped":
            continue
        values = random_values(name, tuple(parameter.shape), dtype, device)
        scheme = scheme_of(part, name, tuple(parameter.shape), precision) if lean else None
        if scheme is None:
            set_parameter(module, name, values.to("cpu") if kept == "host" else values)
        else:
            linear = scheme.attach(matrices[name], scheme.quantised(values), dtype)
            replace_linear(module, name.removesuffix(".weight"), linear)
    for name, buffer in module.named_buffers():
        parent, _, last = name.rpartition(".")
        module.get_submodule(parent)._buffers[last] = buffer.to(device)
    return keep_embeddings_on_host(module) if lean and part == "text_encoder" else module


def random_family(size: Size, precision: Precision, *, lean: bool, folded: bool) -> dict[str, Any]:
    """transformer, text_encoder, vae and processor."""
    processor = processor_of(size)
    tokenizer = processor.tokenizer
    parts = {part: random_part(size, part, tokenizer, precision, lean=lean, folded=folded) for part in PARTS}
    return {**parts, "processor": processor}


def random_values(name: str, shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Values for the parameter `name`, the same in every run: matrices that keep variance, norms around one."""
    generator = torch.Generator(device).manual_seed(zlib.crc32(name.encode()))
    drawn = torch.randn(shape, generator=generator, device=device, dtype=dtype)
    if name == EMBEDDINGS:
        return drawn
    if name.endswith("bias"):
        return drawn.mul_(0.02)
    # Gains of norms have no more than one axis that is not 1; everything else multiplies.
    if sum(length > 1 for length in shape) <= 1:
        return drawn.mul_(0.02).add_(1)
    return drawn.mul_((shape[0] / drawn.numel()) ** 0.5)


def _token_ids(tokenizer: Any) -> dict[str, int]:
    names = {
        "image_token_id": "<|image_pad|>",
        "video_token_id": "<|video_pad|>",
        "vision_start_token_id": "<|vision_start|>",
        "vision_end_token_id": "<|vision_end|>",
    }
    return {name: tokenizer.convert_tokens_to_ids(token) for name, token in names.items()}
