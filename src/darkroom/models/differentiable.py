"""A decode and a denoiser that carry gradients: what guidance descends through.

Against `Editor.decode` this one keeps values beyond -1…1, whose gradient a clamp would kill, can decode a smaller
picture, and recomputes what a backward pass needs instead of keeping it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from darkroom.models.editor import TOKEN_PIXELS, Editor
from darkroom.models.single_frame import single_frame
from darkroom.technique.guidance import Decode
from darkroom.technique.latents import denormalise, unpack
from darkroom.technique.sampling import Denoise, Prediction

_LATENT_PIXELS = 8


def guiding_decoder(editor: Editor, width: int, height: int) -> Decode:
    """(x0 tokens [B, N, 64], longest side or None) -> pixels [B, 3, h, w] in about -1…1, float32, with gradients.

    Without a size this is the whole picture, equal to `Editor.decode` but for the clamp. With one, where the picture
    is larger, the latents are averaged down to it first: a cheaper, softer look at the same picture.
    """
    vae = editor.frame_vae if editor.frame_vae is not editor.vae else single_frame(editor.vae, share=True)
    statistics = [torch.tensor(editor.vae.config[name]) for name in ("latents_mean", "latents_std")]

    def decode(tokens: Tensor, size: int | None) -> Tensor:
        latents = unpack(tokens, height // TOKEN_PIXELS, width // TOKEN_PIXELS)
        latents = _reduced(latents, size).to(editor.dtype)
        latents = denormalise(latents, *(values.to(latents) for values in statistics))
        return decode_frame(vae, latents).float()

    return decode


def decode_frame(vae: Any, latents: Tensor) -> Tensor:
    """The VAE's own latents [B, 16, 1, h, w] -> pixels [B, 3, 8h, 8w], by a VAE that `single_frame` has made.

    The decoder's forward without a feature cache, cut after every convolution. For the way back only what the
    convolutions and the one attention put out is kept; norms and activations are computed again, and no convolution
    but those of shortcuts.
    """
    decoder = vae.decoder
    x = _kept(decoder.conv_in, vae.post_quant_conv(latents))
    x = _residual(decoder.mid_block.resnets[0], x)
    for attention, block in zip(decoder.mid_block.attentions, decoder.mid_block.resnets[1:], strict=True):
        x = _residual(block, attention(x))
    for up in decoder.up_blocks:
        for block in up.resnets:
            x = _residual(block, x)
        if up.upsamplers is not None:
            x = _kept(up.upsamplers[0], x)
    x = _kept(lambda last: decoder.conv_out(decoder.nonlinearity(decoder.norm_out(last))), x)
    return x[:, :, 0]


def recomputing(editor: Editor, denoise: Denoise) -> Denoise:
    """`denoise` whose transformer keeps only its blocks' borders where gradients are asked for (through "transformer").

    The switch is on during the call alone, so that no other job finds it.
    """

    def with_checkpoints(x: Tensor, sigma: Tensor) -> Prediction:
        before = editor.transformer.gradient_checkpointing
        editor.transformer.enable_gradient_checkpointing()
        try:
            return denoise(x, sigma)
        finally:
            if not before:
                editor.transformer.disable_gradient_checkpointing()

    return with_checkpoints


def _reduced(latents: Tensor, size: int | None) -> Tensor:
    """Latents [B, C, 1, h, w] averaged down until the picture's longest side is about `size` pixels."""
    height, width = latents.shape[-2:]
    if size is None or size >= max(height, width) * _LATENT_PIXELS:
        return latents
    ratio = size / (max(height, width) * _LATENT_PIXELS)
    target = (max(1, round(height * ratio)), max(1, round(width * ratio)))
    small = functional.interpolate(latents[:, :, 0], target, mode="bilinear", align_corners=False, antialias=True)
    return small[:, :, None]


def _residual(block: Any, x: Tensor) -> Tensor:
    def first(x: Tensor) -> Tensor:
        return torch.as_tensor(block.conv1(block.nonlinearity(block.norm1(x))))

    def second(x: Tensor, inner: Tensor) -> Tensor:
        # The shortcut first: recomputing stops before the last convolution, and this one is the small one.
        shortcut = block.conv_shortcut(x)
        return torch.as_tensor(block.conv2(block.nonlinearity(block.norm2(inner))) + shortcut)

    return _kept(second, x, _kept(first, x))


def _kept(function: Callable[..., Tensor], *tensors: Tensor) -> Tensor:
    """function(*tensors), of which only the value is kept for the way back."""
    if not torch.is_grad_enabled():
        return function(*tensors)
    return torch.as_tensor(checkpoint(function, *tensors, use_reentrant=False, preserve_rng_state=False))
