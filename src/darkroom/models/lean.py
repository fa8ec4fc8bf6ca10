"""QwenImageTransformer2DModel's forward without what an edit has no use for: no masks, no index lists, no unused rows.

It runs diffusers' own layers with their weights, so that LoRA, quantisation and casting hooks work as they do there.
What it leaves out changes no result: noisy and reference tokens lie one after the other, so that each side takes its
modulation by a slice; rotary tables are kept per shape; the last block, whose reference and text tokens nobody reads,
computes only their keys and values; and only noisy tokens are projected to velocities. In float32 on the CPU the
result is upstream's bit for bit as long as the matrix product's rows do not depend on their number (see the tests).
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from diffusers.models.attention_dispatch import dispatch_attention_fn
from torch import Tensor
from torch._dynamo.exc import TorchDynamoException

from darkroom.models.compiling import CompileCache, full
from darkroom.models.folding import Modulation

log = logging.getLogger(__name__)

Grids = tuple[tuple[int, int], ...]
Rotary = Tensor | tuple[Tensor, Tensor]
"""Turns of text and image tokens, [L, head_dim / 2]: complex, or cosines and sines for a compiler."""

TOLERANCE = 1e-4
"""Largest difference to upstream that the check at load takes for rounding, at values of about 1."""


class Lean:
    """A transformer's forward for tokens of which the first `cells` are noisy and the rest are references.

    compile: the repeated block through torch.compile, once for all blocks and lengths; results differ by rounding.
    Where the compiler fails, the log and `problem` say so and the block runs uncompiled; `problem` also tells when
    forms of the block (each kind of LoRA is one) have become too many to compile. code: folder that keeps what was
    compiled.
    """

    def __init__(self, transformer: Any, compile: bool = False, code: Path | None = None) -> None:
        self.transformer, self._real = transformer, compile
        self._failure: str | None = None
        self._run: Callable[..., tuple[Tensor, Tensor]] = torch.compile(_block, dynamic=True) if compile else _block
        self._code = CompileCache(code, transformer) if compile and code is not None else None
        self._rotary = lru_cache(maxsize=32)(self._turns)

    def __call__(self, tokens: Tensor, cells: int, text: Tensor, modulation: Modulation, grids: Grids) -> Tensor:
        """Velocities [B, cells, 64] for tokens [B, N, 64] and text [B, L, D]; grids are (height, width) in tokens."""
        model = self.transformer
        image = model.img_in(tokens)
        text = model.txt_in(model.txt_norm(text))
        turns = self._rotary(grids, text.shape[1], image.device)
        *blocks, last = model.transformer_blocks
        for index, block in enumerate(blocks):
            image, text = self._block(block, image, text, *modulation.block(index), turns, cells)
        image = _last_block(last, image, text, *modulation.block(len(blocks)), turns, cells)
        scale, shift = modulation.last_norm
        velocity: Tensor = model.proj_out(model.norm_out.norm(image) * scale + shift)
        if self._code is not None:
            self._code.keep()
        return velocity

    @property
    def problem(self) -> str | None:
        """Why some or all blocks run uncompiled although they should not; None where all is well."""
        if self._failure is None and self._run is not _block and full(_block):
            return "torch.compile holds as many forms of the block as it keeps; LoRAs of another form run uncompiled"
        return self._failure

    def _block(self, *inputs: Any) -> Any:
        try:
            return self._checkpointed(inputs) if _checkpoints(self.transformer) else self._run(*inputs)
        except TorchDynamoException as error:
            self._failure = f"torch.compile failed ({type(error).__name__}); blocks run uncompiled"
            log.warning("%s: %s", self._failure, error)
            self._run, self._code = _block, None
            return self._block(*inputs)

    def _checkpointed(self, inputs: tuple[Any, ...]) -> Any:
        return self.transformer._gradient_checkpointing_func(self._run, *inputs)

    def _turns(self, grids: Grids, words: int, device: torch.device) -> Rotary:
        shapes = [[(1, *grid) for grid in grids]]
        image, text = self.transformer.pos_embed(shapes, max_txt_seq_len=words, device=device)
        turns = torch.cat([text, image]).unsqueeze(1)
        return (turns.real.contiguous(), turns.imag.contiguous()) if self._real else turns


def obstacle(transformer: Any) -> str | None:
    """Why this transformer must run diffusers' own forward just now, None where it need not.

    Caches and parallelism of diffusers hang on its blocks' forward, which `Lean` does not call.
    """
    from diffusers import QwenImageTransformer2DModel
    from diffusers.models.transformers.transformer_qwenimage import QwenDoubleStreamAttnProcessor2_0

    if not isinstance(transformer, QwenImageTransformer2DModel):
        return f"it is a {type(transformer).__name__}"
    if transformer.is_cache_enabled:
        return "a cache of diffusers is on"
    if getattr(transformer, "_parallel_config", None) is not None:
        return "it is spread over several devices"
    if any(
        type(block.attn.processor) is not QwenDoubleStreamAttnProcessor2_0 for block in transformer.transformer_blocks
    ):
        return "its attention is not diffusers' own"
    return None


@lru_cache(maxsize=2)
def differs_from_upstream(zero_cond_t: bool) -> str | None:
    """What has changed in the installed diffusers so that `Lean` no longer computes the same; None while it does.

    Both forwards run on a transformer of two narrow blocks with random weights, once per process.
    """
    from diffusers import QwenImageTransformer2DModel

    from darkroom.models.folding import InModule, compute

    with torch.random.fork_rng(devices=[]), torch.no_grad(), torch.device("cpu"):
        torch.manual_seed(0)
        try:
            model = QwenImageTransformer2DModel(
                num_layers=2, attention_head_dim=16, num_attention_heads=2, joint_attention_dim=32,
                axes_dims_rope=(4, 6, 6), zero_cond_t=zero_cond_t,
            ).eval()  # fmt: skip
            tokens, text, time = torch.randn(1, 10, 64), torch.randn(1, 5, 32), torch.tensor([0.5])
            theirs = model(tokens, text, timestep=time, img_shapes=[[(1, 2, 3), (1, 2, 2)]], return_dict=False)[0]
            table = compute(model, InModule(model), (0.5,), torch.float32)
            ours = Lean(model)(tokens, 6, text, table.at(0.5), ((2, 3), (2, 2)))
        # Whatever a later release has renamed shows as one of these.
        except (AttributeError, TypeError, ValueError, RuntimeError, KeyError, IndexError) as error:
            return f"{type(error).__name__}: {error}"
    difference = float((theirs[:, :6] - ours).abs().max())
    return None if difference <= TOLERANCE else f"results differ by {difference:.2g}"


def _block(
    block: Any,
    image: Tensor,
    text: Tensor,
    noisy: Tensor,
    clean: Tensor | None,
    words: Tensor,
    turns: Rotary,
    cells: int,
) -> tuple[Tensor, Tensor]:
    """One block: image [B, N, D] and text [B, L, D] to the same; noisy, clean and words are its modulations [6, D]."""
    attn, length = block.attn, text.shape[1]
    seen, read, key, value = _opened(block, image, text, noisy, clean, words, turns, cells)
    query = torch.cat(
        [attn.norm_added_q(_heads(attn, attn.add_q_proj(read))), attn.norm_q(_heads(attn, attn.to_q(seen)))], 1
    )
    mixed = _attend(attn, _turned(query, turns), key, value)
    image = image + _gated(attn.to_out[0](mixed[:, length:].contiguous()), noisy, clean, 2, cells)
    text = text + words[2] * attn.to_add_out(mixed[:, :length].contiguous())
    image = image + _gated(
        block.img_mlp(_modulated(block.img_norm2(image), noisy, clean, 3, cells)), noisy, clean, 5, cells
    )
    text = text + words[5] * block.txt_mlp(block.txt_norm2(text) * words[4] + words[3])
    return image, text


def _last_block(
    block: Any,
    image: Tensor,
    text: Tensor,
    noisy: Tensor,
    clean: Tensor | None,
    words: Tensor,
    turns: Rotary,
    cells: int,
) -> Tensor:
    """The same for the noisy tokens alone, [B, cells, D]: of the others only keys and values are read."""
    attn, start = block.attn, text.shape[1]
    seen, _, key, value = _opened(block, image, text, noisy, clean, words, turns, cells)
    query = _turned(attn.norm_q(_heads(attn, attn.to_q(seen[:, :cells]))), _rows(turns, start, start + cells))
    mixed = _attend(attn, query, key, value)
    image = image[:, :cells] + noisy[2] * attn.to_out[0](mixed)
    output: Tensor = image + noisy[5] * block.img_mlp(block.img_norm2(image) * noisy[4] + noisy[3])
    return output


def _opened(
    block: Any,
    image: Tensor,
    text: Tensor,
    noisy: Tensor,
    clean: Tensor | None,
    words: Tensor,
    turns: Rotary,
    cells: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """What attention reads: image and text, modulated, and their keys and values [B, L + N, heads, head_dim]."""
    attn = block.attn
    seen = _modulated(block.img_norm1(image), noisy, clean, 0, cells)
    read = block.txt_norm1(text) * words[1] + words[0]
    key = torch.cat(
        [attn.norm_added_k(_heads(attn, attn.add_k_proj(read))), attn.norm_k(_heads(attn, attn.to_k(seen)))], 1
    )
    value = torch.cat([_heads(attn, attn.add_v_proj(read)), _heads(attn, attn.to_v(seen))], 1)
    return seen, read, _turned(key, turns), value


def _modulated(x: Tensor, noisy: Tensor, clean: Tensor | None, first: int, cells: int) -> Tensor:
    """Scale and shift by rows `first` + 1 and `first`; references by `clean` where there is one."""
    if clean is None:
        return x * noisy[first + 1] + noisy[first]
    ours = x[:, :cells] * noisy[first + 1] + noisy[first]
    return torch.cat([ours, x[:, cells:] * clean[first + 1] + clean[first]], 1)


def _gated(x: Tensor, noisy: Tensor, clean: Tensor | None, row: int, cells: int) -> Tensor:
    if clean is None:
        return noisy[row] * x
    return torch.cat([noisy[row] * x[:, :cells], clean[row] * x[:, cells:]], 1)


def _heads(attn: Any, x: Tensor) -> Tensor:
    """[B, L, heads * head_dim] -> [B, L, heads, head_dim]."""
    heads: Tensor = x.unflatten(-1, (-1, attn.inner_dim // attn.heads))
    return heads


def _rows(turns: Rotary, start: int, end: int) -> Rotary:
    return (turns[0][start:end], turns[1][start:end]) if isinstance(turns, tuple) else turns[start:end]


def _turned(x: Tensor, turns: Rotary) -> Tensor:
    """Rotary positions on [B, L, heads, head_dim], computed in float32; pairs of neighbours are complex numbers."""
    if isinstance(turns, tuple):
        cosine, sine = turns
        even, odd = x.float().unflatten(-1, (-1, 2)).unbind(-1)
        return torch.stack([even * cosine - odd * sine, even * sine + odd * cosine], -1).flatten(-2).type_as(x)
    pairs = torch.view_as_complex(x.float().unflatten(-1, (-1, 2)))
    return torch.view_as_real(pairs * turns).flatten(-2).type_as(x)


def _attend(attn: Any, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """[B, L, heads * head_dim], by the backend that is set on the transformer."""
    mixed: Tensor = dispatch_attention_fn(query, key, value, backend=attn.processor._attention_backend)
    return mixed.flatten(2).to(query.dtype)


def _checkpoints(model: Any) -> bool:
    return torch.is_grad_enabled() and bool(model.gradient_checkpointing)
