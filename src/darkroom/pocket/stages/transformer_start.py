"""A start for the transformer that already copies: before any training it predicts "nothing changes".

The first block's heads 0 and 1 look, from every noisy cell, at the reference cell in the same place, and bring its
latents r beside the cell's own x; the output layer computes (x − r)/σ, the velocity that leads to the reference. Every
other branch begins at zero. What is left to learn is the edit. Keys and queries of the two heads are constant, so that
RoPE alone decides; the norm's gain concentrates them on the fastest pairs of the three axes.
"""

from typing import Any

import torch
from diffusers import QwenImageTransformer2DModel
from torch import Tensor, nn

_CHANNELS = 64
# Constant part of a cell's hidden state: keeps the layer norms nearly linear in the latents.
_ANCHOR = 3.0
_SHARPNESS = 3.0
# Shares of a query's energy: frame axis, fastest and second pair of the rows, the same of the columns.
_FRAME, _FAST, _SLOW = 0.2, 0.22, 0.18
# Below this sigma, (x − r)/σ would magnify what is wrong with the edit more than it helps the copy.
_LEAST_SIGMA = 0.4
# The norm takes the length out of queries and keys; a long constant part is what training cannot soon turn aside.
_LENGTH = 30.0


def start_transformer(model: QwenImageTransformer2DModel) -> None:
    """Overwrite the weights of `model` in place; its RoPE axes must be (8, 12, 12) in heads of 32."""
    assert tuple(model.config.axes_dims_rope) == (8, 12, 12)
    with torch.no_grad():
        _start_inputs(model)
        for block in model.transformer_blocks:
            _silence(block)
        _look_at_reference(model.transformer_blocks[0])
        _predict_no_change(model)


def _start_inputs(model: QwenImageTransformer2DModel) -> None:
    width = model.inner_dim
    model.img_in.weight[: 2 * _CHANNELS] = 0
    model.img_in.weight[:_CHANNELS] = torch.eye(_CHANNELS)
    model.img_in.bias.zero_()
    model.img_in.bias[2 * _CHANNELS :] = _ANCHOR * torch.tensor([1.0, -1.0]).repeat((width - 2 * _CHANNELS) // 2)
    model.img_in.weight[2 * _CHANNELS :] *= 0.3


def _silence(block: Any) -> None:
    """Branches write nothing yet, but through open gates, so that they learn at once."""
    for branch in (block.attn.to_out[0], block.attn.to_add_out, block.img_mlp.net[2], block.txt_mlp.net[2]):
        nn.init.zeros_(branch.weight)
        nn.init.zeros_(branch.bias)
    for modulation in (block.img_mod[1], block.txt_mod[1]):
        nn.init.zeros_(modulation.weight)
        nn.init.zeros_(modulation.bias)
        for part in modulation.bias.chunk(6)[2::3]:  # shift, scale, gate; twice
            part.fill_(1.0)


def _look_at_reference(block: Any) -> None:
    """Heads 0 and 1 of the first block: the reference's latents into channels 64–127."""
    attn = block.attn
    for projection in (attn.to_q, attn.to_k):
        projection.weight[:_CHANNELS] = 0
    attn.to_q.bias[:_CHANNELS] = _LENGTH * _position(turned=True).repeat(2)
    attn.to_k.bias[:_CHANNELS] = _LENGTH * _position(turned=False).repeat(2)
    used = (_position(turned=True) != 0) | (_position(turned=False) != 0)
    for norm in (attn.norm_q, attn.norm_k):
        norm.weight[used] = _SHARPNESS
    # The layer norm divides by about this.
    scale = ((_CHANNELS + _CHANNELS * _ANCHOR**2) / (3 * _CHANNELS)) ** 0.5
    attn.to_v.weight[:_CHANNELS] = 0
    attn.to_v.weight[:_CHANNELS, :_CHANNELS] = scale * torch.eye(_CHANNELS)
    attn.to_v.bias[:_CHANNELS] = 0
    attn.to_out[0].weight[_CHANNELS : 2 * _CHANNELS, :_CHANNELS] = torch.eye(_CHANNELS)


def _position(turned: bool) -> Tensor:
    """[32]: the constant query or key. RoPE pairs: 0–3 frame, 4–9 rows, 10–15 columns, each from fast to slow.

    A query turned by one radian on the frame axis meets best the key one frame on: a noisy cell (frame 0) finds the
    first reference (frame 1), and a reference finds itself.
    """
    pairs = torch.zeros(16, 2)
    frame = torch.tensor(1.0 if turned else 0.0)
    pairs[0] = torch.stack([frame.cos(), frame.sin()]) * _FRAME**0.5
    for pair, share in ((4, _FAST), (5, _SLOW), (10, _FAST), (11, _SLOW)):
        pairs[pair, 0] = share**0.5
    return pairs.flatten()


def _predict_no_change(model: QwenImageTransformer2DModel) -> None:
    """Output (x − r)/σ; the division by σ is the time embedding's scale, fitted by least squares."""
    scale = ((2 * _CHANNELS + _CHANNELS * _ANCHOR**2) / (3 * _CHANNELS)) ** 0.5
    nn.init.zeros_(model.proj_out.weight)
    nn.init.zeros_(model.proj_out.bias)
    model.proj_out.weight[:, :_CHANNELS] = scale * torch.eye(_CHANNELS)
    model.proj_out.weight[:, _CHANNELS : 2 * _CHANNELS] = -scale * torch.eye(_CHANNELS)
    sigma = torch.linspace(0.005, 1, 400)
    features = nn.functional.silu(model.time_text_embed(sigma, torch.zeros(1)))
    features = torch.cat([features, torch.ones(len(sigma), 1)], dim=1)
    wanted = 1 / sigma.clamp(min=_LEAST_SIGMA) - 1
    ridge = 1e-4 * torch.eye(features.shape[1])
    solution = torch.linalg.solve(features.T @ features + ridge, features.T @ wanted)
    nn.init.zeros_(model.norm_out.linear.weight)
    nn.init.zeros_(model.norm_out.linear.bias)
    model.norm_out.linear.weight[: 2 * _CHANNELS] = solution[:-1]
    model.norm_out.linear.bias[: 2 * _CHANNELS] = solution[-1]
