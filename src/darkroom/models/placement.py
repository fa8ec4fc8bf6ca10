"""Where each weight of a part lives while the engine runs, and what all of them weigh."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor, nn

from darkroom.models.precision import stored_bytes
from darkroom.models.specs import Precision

Place = Literal["device", "host", "modulation", "dropped"]

PARTS = ("text_encoder", "vae", "transformer")
"""The heavy parts, in the order in which an edit needs them."""

EMBEDDINGS = "model.language_model.embed_tokens.weight"
_MODULATION = re.compile(r"transformer_blocks\.\d+\.(img_mod|txt_mod)\.1\.(weight|bias)")


def place(part: str, name: str) -> Place:
    """Where the parameter `name` of a part is kept.

    modulation: read off tables per timestep (folding), a third of the transformer. host: the token embeddings, of
    which a prompt takes a few hundred rows. dropped: the language head, since no word is ever generated.
    """
    if part == "text_encoder":
        return {EMBEDDINGS: "host", "lm_head.weight": "dropped"}.get(name, "device")  # type: ignore[return-value]
    return "modulation" if part == "transformer" and _MODULATION.fullmatch(name) else "device"


@dataclass(frozen=True)
class Weight:
    """Bytes of one part's parameters by where they are."""

    device: int = 0
    host: int = 0
    modulation: int = 0


def weigh(part: str, parameters: Iterable[tuple[str, tuple[int, ...]]], precision: Precision) -> Weight:
    """What a part's parameters (name, shape) take in this precision; nothing is loaded.

    host and modulation keep the compute type: neither is ever multiplied in FP8.
    """
    total = {"device": 0, "host": 0, "modulation": 0, "dropped": 0}
    for name, shape in parameters:
        total[place(part, name)] += stored_bytes(part, name, shape, precision)
    return Weight(total["device"], total["host"], total["modulation"])


def shapes(module: Any) -> list[tuple[str, tuple[int, ...]]]:
    """(name, shape) of every parameter of a module, which may be on the meta device."""
    return [(name, tuple(parameter.shape)) for name, parameter in module.named_parameters()]


def module_name(part: str, name: str) -> str:
    """A checkpoint's name for a tensor -> the module's. Qwen2.5-VL's files keep names of before transformers 4.52."""
    if part == "text_encoder":
        name = re.sub(r"^visual\.", "model.visual.", name)
        name = re.sub(r"^model\.(?!language_model\.|visual\.)", "model.language_model.", name)
    return name


class HostEmbedding(nn.Module):
    """Token embeddings whose table stays in the computer's memory: `.to` moves the rows that are asked for alone.

    Exact, and 1.1 GB less on the device for Qwen2.5-VL-7B. table: [words, D].
    """

    def __init__(self, table: Tensor) -> None:
        super().__init__()
        # No parameter and no buffer, so that moving the model leaves it where it is.
        self.weight = table.detach().to("cpu")

    def forward(self, ids: Tensor) -> Tensor:
        return nn.functional.embedding(ids.to("cpu"), self.weight).to(ids.device)


def keep_embeddings_on_host(text_encoder: Any) -> Any:
    """Put a HostEmbedding in the place of the token embeddings and drop the language head; returns the encoder."""
    text_encoder.set_input_embeddings(HostEmbedding(text_encoder.get_input_embeddings().weight))
    text_encoder.lm_head = nn.Identity()
    return text_encoder


def set_parameter(module: nn.Module, name: str, tensor: Tensor) -> None:
    """Put a frozen parameter where `name` points."""
    parent, _, last = name.rpartition(".")
    module.get_submodule(parent).register_parameter(last, nn.Parameter(tensor, requires_grad=False))


def occupied_bytes(module: nn.Module) -> int:
    """Bytes of a loaded module's parameters and buffers, of quantised ones what is really held."""
    return sum(_held(tensor) for tensor in [*module.parameters(), *module.buffers()])


def _held(tensor: Tensor) -> int:
    if tensor.is_meta:
        return 0
    if hasattr(tensor, "tensor_data_names"):  # torchao's tensors
        inner = [getattr(tensor, name) for name in tensor.tensor_data_names]
        return sum(_held(t) for t in inner)
    own = tensor.numel() * tensor.element_size()
    state = getattr(tensor, "quant_state", None)  # bitsandbytes'
    return own if state is None else own + sum(t.nbytes for t in state.as_dict(packed=True).values())
