"""How a part's weights are stored and computed with: bf16, FP8 and INT8 with a scale per row, or 4 bits.

Only the matrices of the repeated layers are quantised. What feeds them and leaves them (the first and last
projections, the time embedding, norms, the modulation, patch and token embeddings) keeps its precision: together a
hundredth of a folded transformer, and every step passes through it. The text encoder is never computed in 8 bits:
it runs twice per edit, so that its matrices are widened one by one at little cost. The VAE is left alone.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Mapping
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor, nn

from darkroom.errors import ModelNotReady
from darkroom.models.specs import FP8, Card, Precision

SCALE = "_scale"
# torchao divides a row of zeros by its own size, which makes it NaN; this is smaller than any row that is not zero.
LEAST = 1e-12
REPEATED = {
    "transformer": re.compile(r"transformer_blocks\.\d+\.(attn|img_mlp|txt_mlp)\..*weight"),
    "text_encoder": re.compile(r"model\.(language_model\.layers|visual\.blocks)\.\d+\..*weight"),
    "vision": re.compile(r"(language_model\.layers|visual\.blocks)\.\d+\..*weight"),
}
"""Names of the weights that may be quantised, where they are matrices of a Linear."""


class Scheme(ABC):
    """One way to store a matrix [N, K]: what files hold of it, and how a Linear computes with it."""

    @abstractmethod
    def quantised(self, weight: Tensor) -> dict[str, Tensor]:
        """The stored tensors by the ending that their names get after the weight's own."""

    @abstractmethod
    def attach(self, linear: nn.Linear, stored: Mapping[str, Tensor], dtype: torch.dtype) -> nn.Linear:
        """A Linear that computes with `stored` in `dtype` where they are: `linear`, or another to put in its place."""

    @abstractmethod
    def bytes(self, rows: int, columns: int) -> int:
        """What `quantised` takes."""


class RowScaledFp8(Scheme):
    """float8_e4m3fn with one float32 scale per row, in torchao's tensor.

    products: activations are quantised too, per token, and multiplied in FP8 (sm_89 and later); otherwise the matrix
    is widened when its layer runs.
    """

    def __init__(self, products: bool) -> None:
        self.products = products

    def quantised(self, weight: Tensor) -> dict[str, Tensor]:
        from torchao.quantization import Float8Tensor, PerRow

        tensor = Float8Tensor.from_hp(weight.float(), granularity=PerRow(), hp_value_lb=LEAST)
        return {"": tensor.qdata, SCALE: tensor.scale}

    def attach(self, linear: nn.Linear, stored: Mapping[str, Tensor], dtype: torch.dtype) -> nn.Linear:
        from torchao.float8.inference import Float8MMConfig
        from torchao.quantization import Float8Tensor, PerRow
        from torchao.quantization.quantize_.workflows import QuantizeTensorToFloat8Kwargs

        products = Float8MMConfig(use_fast_accum=True)
        activations = QuantizeTensorToFloat8Kwargs(granularity=PerRow(), mm_config=products, hp_value_lb=LEAST)
        matrix = Float8Tensor(
            stored[""],
            stored[SCALE],
            block_size=[1, stored[""].shape[1]],
            mm_config=products,
            act_quant_kwargs=activations if self.products else None,
            dtype=dtype,
        )
        linear.weight = nn.Parameter(matrix, requires_grad=False)
        return linear

    def bytes(self, rows: int, columns: int) -> int:
        return rows * columns + 4 * rows


class RowScaledInt8(Scheme):
    """INT8 weights with a scale per row, INT8 activations with a scale per token, in torchao's tensor (W8A8)."""

    def quantised(self, weight: Tensor) -> dict[str, Tensor]:
        from torchao.quantization import Int8Tensor, PerRow

        tensor = Int8Tensor.from_hp(weight.float(), granularity=PerRow())
        return {"": tensor.qdata, SCALE: tensor.scale}

    def attach(self, linear: nn.Linear, stored: Mapping[str, Tensor], dtype: torch.dtype) -> nn.Linear:
        from torchao.quantization import Int8Tensor, PerRow
        from torchao.quantization.quantize_.workflows import QuantizeTensorToInt8Kwargs

        matrix = Int8Tensor(
            stored[""],
            stored[SCALE],
            block_size=[1, stored[""].shape[1]],
            dtype=dtype,
            act_quant_kwargs=QuantizeTensorToInt8Kwargs(granularity=PerRow()),
        )
        linear.weight = nn.Parameter(matrix, requires_grad=False)
        return linear

    def bytes(self, rows: int, columns: int) -> int:
        return rows * columns + 4 * rows


class Nf4(Scheme):
    """4-bit NormalFloat in blocks of 64 with 8-bit scales (QLoRA's double quantisation), by bitsandbytes."""

    def quantised(self, weight: Tensor) -> dict[str, Tensor]:
        from bitsandbytes.functional import quantize_4bit

        packed, state = quantize_4bit(weight, blocksize=64, compress_statistics=True, quant_type="nf4")
        return {"": packed, **{f".{name}": tensor for name, tensor in state.as_dict(packed=True).items()}}

    def attach(self, linear: nn.Linear, stored: Mapping[str, Tensor], dtype: torch.dtype) -> nn.Linear:
        from bitsandbytes.nn import Linear4bit, Params4bit

        with torch.device("meta"):
            four_bit: nn.Linear = Linear4bit(
                linear.in_features, linear.out_features, bias=linear.bias is not None, compute_dtype=dtype
            )
        four_bit.bias = linear.bias
        state = {name[1:]: tensor for name, tensor in stored.items() if name}
        device = stored[""].device
        four_bit.weight = Params4bit.from_prequantized(stored[""], state, device=device, module=four_bit)
        return four_bit.eval()

    def bytes(self, rows: int, columns: int) -> int:
        blocks = -(-rows * columns // 64)
        # Half a byte a value, one per block of 64, four per 256 blocks; two tables and 170 letters of description.
        return -(-rows * columns // 2) + blocks + 4 * -(-blocks // 256) + 4 * (16 + 256) + 170


WIDENED = RowScaledFp8(products=False)
SCHEMES: Mapping[Precision, Mapping[str, Scheme]] = {
    "float32": {},
    "bf16": {},
    "fp8": {"transformer": RowScaledFp8(products=True), "text_encoder": WIDENED, "vision": WIDENED},
    "fp8_storage": {"transformer": WIDENED, "text_encoder": WIDENED, "vision": WIDENED},
    "int8": {"transformer": RowScaledInt8()},
    "int4": {"transformer": Nf4(), "text_encoder": WIDENED, "vision": WIDENED},
}
"""Per precision: the scheme of each part; parts without one keep the compute type."""

WITHOUT_GRADIENTS = frozenset[Precision]({"fp8", "int8"})
"""Through their matrices none go back: torch has no derivative of `_scaled_mm`, and torchao's INT8 product detaches its
input, so that what arrives is the residual stream's share alone, a wrong direction."""

NEEDED: Mapping[Precision, tuple[tuple[int, int], str]] = {
    "fp8": (FP8, "FP8 matrix products"),
    "int8": ((8, 0), "INT8 matrix products"),
    "bf16": ((8, 0), "bf16"),
    "fp8_storage": ((8, 0), "bf16, which FP8 storage computes in"),
}
"""What a precision asks of an NVIDIA chip: compute capability, in numbers and words."""


def compute_dtype(precision: Precision) -> torch.dtype:
    """What activations are computed in."""
    return torch.float32 if precision == "float32" else torch.bfloat16


def require(precision: Precision, card: Card | None) -> None:
    """Raise ModelNotReady where the card cannot compute in this precision; a CPU (None) can, slowly, in all.

    int4 also needs the package bitsandbytes, which is an extra (four-bit).
    """
    if precision == "int4" and find_spec("bitsandbytes") is None:
        raise ModelNotReady("precision int4 needs the package bitsandbytes: pip install 'darkroom[four-bit]'")
    if card is None or precision not in NEEDED:
        return
    least, words = NEEDED[precision]
    if card.capability < least:
        possible = [name for name in SCHEMES if card.capability >= NEEDED.get(name, ((0, 0), ""))[0]]
        raise ModelNotReady(
            f"DARKROOM_PRECISION or the profile asks for {precision}, which needs a chip with {words} (compute "
            f"capability {least[0]}.{least[1]}); {card.name or 'this one'} has {card.capability[0]}."
            f"{card.capability[1]}: set DARKROOM_PRECISION to one of {', '.join(possible)}"
        )


def scheme_of(part: str, name: str, shape: tuple[int, ...], precision: Precision) -> Scheme | None:
    """How the parameter `name` of a part is stored; None for those that keep the compute type."""
    scheme = SCHEMES[precision].get(part)
    if scheme is None or len(shape) != 2 or not REPEATED[part].fullmatch(name):
        return None
    return scheme


def stored_bytes(part: str, name: str, shape: tuple[int, ...], precision: Precision) -> int:
    """What one parameter takes in memory and in a packed file."""
    scheme = scheme_of(part, name, shape, precision)
    if scheme is not None:
        return scheme.bytes(*shape)
    return torch.Size(shape).numel() * compute_dtype(precision).itemsize


def quantise(module: Any, part: str, precision: Precision) -> Any:
    """Quantise a loaded part in place, matrix by matrix; returns it."""
    dtype = compute_dtype(precision)
    for name, linear in linears(module):
        scheme = scheme_of(part, f"{name}.weight", tuple(linear.weight.shape), precision)
        if scheme is not None:
            replace_linear(module, name, scheme.attach(linear, scheme.quantised(linear.weight.detach()), dtype))
    return module


def linears(module: nn.Module) -> list[tuple[str, nn.Linear]]:
    """Every Linear with its dotted name."""
    return [(name, child) for name, child in module.named_modules() if isinstance(child, nn.Linear)]


def replace_linear(module: nn.Module, name: str, linear: nn.Linear) -> None:
    """Put `linear` where `name` points."""
    parent, _, last = name.rpartition(".")
    setattr(module.get_submodule(parent), last, linear)
