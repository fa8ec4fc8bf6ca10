"""Loading the parts of a checkpoint, each through its own class's `from_pretrained`."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from darkroom.errors import ModelNotReady
from darkroom.models.placement import Weight, keep_embeddings_on_host, module_name, weigh
from darkroom.models.precision import compute_dtype, quantise
from darkroom.models.specs import Precision
from darkroom.models.weights import tensor_entries
from darkroom.technique.schedule import Schedule

CLASSES = {
    "transformer": "QwenImageTransformer2DModel",
    "text_encoder": "Qwen2_5_VLForConditionalGeneration",
    "vae": "AutoencoderKLQwenImage",
}


def load_transformer(folder: Path, precision: Precision) -> Any:
    """QwenImageTransformer2DModel in evaluation mode on the CPU. Guidance-distilled variants are refused."""
    from diffusers import QwenImageTransformer2DModel

    model = QwenImageTransformer2DModel.from_pretrained(folder, torch_dtype=compute_dtype(precision))
    return quantise(_settled(plain_transformer(model)), "transformer", precision)


def load_text_encoder(folder: Path, precision: Precision) -> Any:
    """Qwen2_5_VLForConditionalGeneration in evaluation mode on the CPU, without the language head."""
    from transformers import Qwen2_5_VLForConditionalGeneration

    model = Qwen2_5_VLForConditionalGeneration.from_pretrained(folder, dtype=compute_dtype(precision))
    return quantise(_settled(keep_embeddings_on_host(model)), "text_encoder", precision)


def load_vae(folder: Path, precision: Precision) -> Any:
    """AutoencoderKLQwenImage in evaluation mode on the CPU; never stored in less than its compute type."""
    from diffusers import AutoencoderKLQwenImage

    return _settled(AutoencoderKLQwenImage.from_pretrained(folder, torch_dtype=compute_dtype(precision)))


LOADERS: Mapping[str, Callable[[Path, Precision], Any]] = {
    "transformer": load_transformer,
    "text_encoder": load_text_encoder,
    "vae": load_vae,
}
"""The heavy parts: shared between models when equal, counted in the memory budget."""


def skeleton(folder: Path, part: str) -> Any:
    """A part's module from its configuration alone: parameters on the meta device, buffers as they are.

    Patches torch while it runs, so that only one thread may be building modules. Raises ModelNotReady for a
    configuration of another class.
    """
    from accelerate import init_empty_weights
    from diffusers import AutoencoderKLQwenImage, QwenImageTransformer2DModel
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

    check_class(folder, part)
    with init_empty_weights():
        if part == "transformer":
            config = QwenImageTransformer2DModel.load_config(folder)
            return _settled(plain_transformer(QwenImageTransformer2DModel.from_config(config)))
        if part == "vae":
            return _settled(AutoencoderKLQwenImage.from_config(AutoencoderKLQwenImage.load_config(folder)))
        return _settled(Qwen2_5_VLForConditionalGeneration(Qwen2_5_VLConfig.from_pretrained(folder)))


def check_class(folder: Path, part: str) -> None:
    """Raise ModelNotReady where a part's configuration is missing, unreadable or names another class."""
    try:
        config = json.loads((folder / "config.json").read_text())
        found = config["_class_name"] if "_class_name" in config else config["architectures"][0]
    except (OSError, ValueError, KeyError, IndexError, TypeError) as error:
        raise ModelNotReady(f"{folder.name}/config.json does not say which class this part is") from error
    if found != CLASSES[part]:
        raise ModelNotReady(f"the {part} is a {found}, and Qwen-Image-Edit has a {CLASSES[part]}")


def plain_transformer(model: Any) -> Any:
    """The transformer itself. Raises ModelNotReady for one that is distilled for guidance."""
    if model.config.guidance_embeds or model.config.use_additional_t_cond:
        raise ModelNotReady("this transformer takes guidance or extra time conditions, which Qwen-Image-Edit has not")
    return model


def load_processor(folder: Path) -> Any:
    """What reads prompts: Qwen2VLProcessor, tokenizer and picture preprocessing; or a `tokenizer` folder's alone.

    Qwen-Image, which looks at no pictures, comes with the latter.
    """
    from transformers import Qwen2Tokenizer, Qwen2VLProcessor

    if folder.name == "tokenizer":
        return SimpleNamespace(tokenizer=Qwen2Tokenizer.from_pretrained(folder))
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


def expected_weight(folder: Path, part: str, precision: Precision) -> Weight:
    """Memory that a part will take, from the headers of its safetensors files; nothing is loaded."""
    named = [entry for path in sorted(folder.glob("*.safetensors")) for entry in header(path)]
    return weigh(part, [(module_name(part, name), shape) for name, shape in named], precision)


def header(path: Path) -> Iterator[tuple[str, tuple[int, ...]]]:
    """(name, shape) of every tensor in a safetensors file."""
    for name, entry in tensor_entries(path)[0].items():
        yield name, tuple(entry["shape"])


def _settled(model: Any) -> Any:
    model.eval().requires_grad_(False)
    return model
