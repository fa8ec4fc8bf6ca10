"""Loading the parts of a checkpoint, each through its own class's `from_pretrained`."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from darkroom.errors import ModelNotReady
from darkroom.models.precision import compute_dtype, four_bit, store_in_fp8
from darkroom.models.specs import Precision
from darkroom.technique.schedule import Schedule

BYTES_PER_PARAMETER = {"float32": 4.0, "bf16": 2.0, "fp8": 1.0, "int4": 0.56}


def load_transformer(folder: Path, precision: Precision) -> Any:
    """QwenImageTransformer2DModel in evaluation mode on the CPU. Guidance-distilled variants are refused."""
    from diffusers import QwenImageTransformer2DModel

    extra = {"quantization_config": four_bit()} if precision == "int4" else {}
    model = QwenImageTransformer2DModel.from_pretrained(folder, torch_dtype=compute_dtype(precision), **extra)
    if model.config.guidance_embeds or model.config.use_additional_t_cond:
        raise ModelNotReady("this transformer takes guidance or extra time conditions, which Qwen-Image-Edit has not")
    return _settled(model, precision)


def load_text_encoder(folder: Path, precision: Precision) -> Any:
    """Qwen2_5_VLForConditionalGeneration in evaluation mode on the CPU."""
    from transformers import Qwen2_5_VLForConditionalGeneration

    model = Qwen2_5_VLForConditionalGeneration.from_pretrained(folder, dtype=compute_dtype(precision))
    return _settled(model, precision)


def load_vae(folder: Path, precision: Precision) -> Any:
    """AutoencoderKLQwenImage in evaluation mode on the CPU; never stored in less than its compute type."""
    from diffusers import AutoencoderKLQwenImage

    model = AutoencoderKLQwenImage.from_pretrained(folder, torch_dtype=compute_dtype(precision))
    return model.eval().requires_grad_(False)


LOADERS: Mapping[str, Callable[[Path, Precision], Any]] = {
    "transformer": load_transformer,
    "text_encoder": load_text_encoder,
    "vae": load_vae,
}
"""The heavy parts: shared between models when equal, counted in the memory budget."""


def load_processor(folder: Path) -> Any:
    """Qwen2VLProcessor: tokenizer and picture preprocessing."""
    from transformers import Qwen2VLProcessor

    return Qwen2VLProcessor.from_pretrained(folder)


def load_schedule(folder: Path) -> Schedule:
    """The scheduler's constants. Raises ModelNotReady for a schedule that this engine does not take."""
    config = json.loads((folder / "scheduler_config.json").read_text())
    other = [
        key
        for key in (
            "use_karras_sigmas",
            "use_exponential_sigmas",
            "use_beta_sigmas",
            "invert_sigmas",
            "stochastic_sampling",
        )
        if config.get(key)
    ]
    if other or not config.get("use_dynamic_shifting") or config.get("time_shift_type", "exponential") != "exponential":
        raise ModelNotReady(f"this scheduler is not Qwen-Image's exponential dynamic shift ({', '.join(other)})")
    return Schedule(
        base_shift=config.get("base_shift", 0.5),
        max_shift=config.get("max_shift", 1.15),
        base_image_seq_len=config.get("base_image_seq_len", 256),
        max_image_seq_len=config.get("max_image_seq_len", 4096),
        shift_terminal=config.get("shift_terminal"),
    )


def expected_bytes(folder: Path, part: str, precision: Precision) -> int:
    """Memory that a part will take, from the headers of its safetensors files; nothing is loaded."""
    parameters = sum(_parameters(path) for path in folder.glob("*.safetensors"))
    kept = "bf16" if part == "vae" and precision != "float32" else precision
    if part == "text_encoder" and precision == "int4":
        kept = "bf16"
    return int(parameters * BYTES_PER_PARAMETER[kept])


def occupied_bytes(module: torch.nn.Module) -> int:
    """Bytes of a loaded module's parameters and buffers."""
    return sum(t.numel() * t.element_size() for t in [*module.parameters(), *module.buffers()])


def _settled(model: Any, precision: Precision) -> Any:
    model.eval().requires_grad_(False)
    return store_in_fp8(model) if precision == "fp8" else model


def _parameters(path: Path) -> int:
    with path.open("rb") as file:
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    total = 0
    for name, entry in header.items():
        if name != "__metadata__":
            count = 1
            for side in entry["shape"]:
                count *= side
            total += count
    return total
