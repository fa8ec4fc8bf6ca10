"""QwenImageTransformer2DModel's forward as training needs it: fixed shapes, real arithmetic, only the noisy cells out.

Diffusers rotates queries and keys as complex numbers, which no compiler fuses and no bfloat16 kernel takes. Here the
same rotation is written with cosines and sines. Equal to the model's own forward up to rounding, as a test shows.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from diffusers import QwenImageTransformer2DModel
from torch import Tensor, nn

from darkroom.pocket.stages.compiling import compiled

Rotary = tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]
ThroughBlock = Callable[[nn.Module, Tensor, Tensor, Tensor, Rotary, int], tuple[Tensor, Tensor]]
"""As `through_block`."""
Velocity = Callable[[QwenImageTransformer2DModel, Tensor, Tensor, Tensor, Tensor, Rotary], tuple[Tensor, list[Tensor]]]
"""As `velocity`."""


class RealRotaryAttention:
    """An attention processor for the joint attention of a block; takes `rotary`'s cosines and sines, no mask."""

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor,
        attention_mask: None = None,
        encoder_hidden_states_mask: None = None,
        image_rotary_emb: Rotary | None = None,
    ) -> tuple[Tensor, Tensor]:
        assert image_rotary_emb is not None
        assert encoder_hidden_states_mask is None
        image, text = image_rotary_emb
        words = encoder_hidden_states.shape[1]
        query = torch.cat(
            [
                _turned(attn, attn.norm_added_q, attn.add_q_proj(encoder_hidden_states), text),
                _turned(attn, attn.norm_q, attn.to_q(hidden_states), image),
            ],
            dim=2,
        )
        key = torch.cat(
            [
                _turned(attn, attn.norm_added_k, attn.add_k_proj(encoder_hidden_states), text),
                _turned(attn, attn.norm_k, attn.to_k(hidden_states), image),
            ],
            dim=2,
        )
        value = torch.cat([attn.add_v_proj(encoder_hidden_states), attn.to_v(hidden_states)], dim=1)
        mixed = _attend(query, key, _heads(attn, value))
        mixed = mixed.transpose(1, 2).flatten(2)
        return attn.to_out[0](mixed[:, words:]), attn.to_add_out(mixed[:, :words])


def prepare(model: QwenImageTransformer2DModel) -> None:
    """Give every block the real-valued attention; `restore` gives diffusers' back."""
    # One for all blocks: what is compiled of one then serves the others.
    attention = RealRotaryAttention()
    for block in model.transformer_blocks:
        block.attn.processor = attention
        block._modulate = _modulate


def restore(model: QwenImageTransformer2DModel) -> None:
    """Undo `prepare`: the model is diffusers' own again."""
    from diffusers.models.transformers.transformer_qwenimage import QwenDoubleStreamAttnProcessor2_0

    for block in model.transformer_blocks:
        block.attn.processor = QwenDoubleStreamAttnProcessor2_0()
        del block._modulate


def rotary(model: QwenImageTransformer2DModel, grids: list[tuple[int, int]], words: int) -> Rotary:
    """Cosines and sines, each [tokens, head_dim / 2], for pictures of `grids` cells and for `words` text tokens."""
    found = model.pos_embed([[(1, *grid) for grid in grids]], max_txt_seq_len=words)
    image, text = (turns.to(model.device) for turns in found)
    return (image.real.contiguous(), image.imag.contiguous()), (text.real.contiguous(), text.imag.contiguous())


def through_block(
    block: nn.Module, text: Tensor, image: Tensor, time: Tensor, turns: Rotary, cells: int
) -> tuple[Tensor, Tensor]:
    """Text and image after one of the transformer's blocks; the image's first `cells` tokens are noisy."""
    after: tuple[Tensor, Tensor] = block(image, text, None, time, turns, None, cells)
    return after


def velocity(
    model: QwenImageTransformer2DModel,
    noisy: Tensor,
    reference: Tensor,
    words: Tensor,
    sigmas: Tensor,
    turns: Rotary,
    through: ThroughBlock = through_block,
) -> tuple[Tensor, list[Tensor]]:
    """[B, N, 64] for noisy cells [B, N, 64], reference cells [B, M, 64], words [B, L, width], sigmas [2, B].

    The second row of `sigmas` is what the references are modulated with: 0 in 2511's form (`zero_cond_t`), the first
    row in 2509's.

    Beside it the cells' hidden states [B, N + M, width] after each block, for what training asks of them.
    `model` must have gone through `prepare`. `through`: `through_block`, or compiled.
    """
    batch, cells = noisy.shape[:2]
    image = model.img_in(torch.cat([noisy, reference], dim=1))
    text = model.txt_in(model.txt_norm(words))
    time = model.time_text_embed(sigmas.flatten(), image)
    hidden = []
    for block in model.transformer_blocks:
        text, image = through(block, text, image, time, turns, cells)
        hidden.append(image)
    out: Tensor = model.proj_out(model.norm_out(image[:, :cells], time[:batch]))
    return out, hidden


def compiled_velocity(device: torch.device) -> Velocity:
    """`velocity` with one block compiled, which serves all blocks, sizes of pictures and lengths of prompts."""
    return partial(velocity, through=compiled(through_block, device, dynamic=True))


def _attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Written out: for 163 tokens the fused kernel's backward takes several times longer on a CPU."""
    scores = query @ key.mT * query.shape[-1] ** -0.5
    with torch.autocast(scores.device.type, enabled=False):
        weights = scores.softmax(dim=-1)
    mixed: Tensor = weights @ value
    return mixed


def _modulate(x: Tensor, parameters: Tensor, cells: int | None = None) -> tuple[Tensor, Tensor]:
    """The block's own `_modulate` without its per-token choice.

    Of an image the first `cells` tokens take the first half of `parameters`, the others the second; of text (None)
    all take what there is.
    """
    shift, scale, gate = parameters.chunk(3, dim=-1)
    if cells is None:
        return x * (1 + scale[:, None]) + shift[:, None], gate[:, None]
    noisy, clean = x[:, :cells], x[:, cells:]
    batch = len(x)
    modulated = torch.cat(
        [
            noisy * (1 + scale[:batch, None]) + shift[:batch, None],
            clean * (1 + scale[batch:, None]) + shift[batch:, None],
        ],
        dim=1,
    )
    gates = [gate[:batch, None].expand_as(noisy), gate[batch:, None].expand_as(clean)]
    return modulated, torch.cat(gates, dim=1)


def _heads(attn: Any, x: Tensor) -> Tensor:
    """[B, L, heads · d] → [B, heads, L, d]."""
    heads: Tensor = x.unflatten(-1, (attn.heads, -1)).transpose(1, 2)
    return heads


def _turned(attn: Any, norm: Any, x: Tensor, turns: tuple[Tensor, Tensor]) -> Tensor:
    cosine, sine = turns
    x = norm(_heads(attn, x))
    even, odd = x[..., 0::2], x[..., 1::2]
    turned = torch.stack([even * cosine - odd * sine, even * sine + odd * cosine], dim=-1)
    return turned.flatten(-2).to(x.dtype)
