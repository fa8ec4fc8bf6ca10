"""The Qwen-Image VAE for one frame at a time: every causal 3-D convolution as the 2-D one of its last slice.

One frame is padded with zeros in the past, so the other temporal slices never see data: the result is the same up to
rounding, in less time and memory. Gradients pass, which guided decoding and training need.
"""

from __future__ import annotations

import copy

import torch
from diffusers import AutoencoderKLQwenImage
from diffusers.models.autoencoders.autoencoder_kl_qwenimage import QwenImageCausalConv3d
from torch import Tensor, nn
from torch.nn import functional


class FrameConvolution(nn.Conv2d):
    """A causal convolution on one frame: [B, C, 1, H, W] in and out."""

    def forward(self, x: Tensor, cache_x: None = None) -> Tensor:
        assert x.shape[2] == 1
        assert cache_x is None
        out = functional.conv2d(x[:, :, 0], self.weight, self.bias, self.stride, self.padding)
        return out[:, :, None]


def single_frame(vae: AutoencoderKLQwenImage, share: bool = False) -> AutoencoderKLQwenImage:
    """`vae` for single frames, on its device, in its dtype. Call `encoder` and `decoder` directly, without a cache.

    share: for inference. What needs no conversion is `vae`'s own memory, so that a change there is seen here; without
    it the copy stands alone and may be trained, and `absorb` takes its weights back.
    """
    weights = [*vae.parameters(), *vae.buffers()] if share else []
    lean = copy.deepcopy(vae, {id(weight): weight for weight in weights})
    for name, module in vae.named_modules():
        if isinstance(module, QwenImageCausalConv3d) and not name.endswith("time_conv"):
            _replace(lean, name, _frame_convolution(module, share))
    return lean


def absorb(vae: AutoencoderKLQwenImage, lean: AutoencoderKLQwenImage) -> None:
    """Write the weights of `lean`, made by `single_frame`, back into `vae` in place; unused slices become zero."""
    trained = dict(lean.named_parameters())
    with torch.no_grad():
        for name, parameter in vae.named_parameters():
            if parameter.shape == trained[name].shape:
                parameter.copy_(trained[name])
            else:
                parameter.zero_()
                parameter[:, :, -1].copy_(trained[name])


def _frame_convolution(causal: nn.Conv3d, share: bool) -> FrameConvolution:
    size = int(causal.kernel_size[-1])
    flat = FrameConvolution(causal.in_channels, causal.out_channels, size, padding=size // 2, device="meta")
    assert causal.bias is not None
    weight, bias = causal.weight.detach()[:, :, -1], causal.bias.detach()
    # `contiguous` copies only where the kernel has more than one temporal slice.
    weight, bias = (weight.contiguous(), bias) if share else (weight.clone(), bias.clone())
    flat.weight = nn.Parameter(weight, requires_grad=causal.weight.requires_grad)
    flat.bias = nn.Parameter(bias, requires_grad=causal.bias.requires_grad)
    return flat.train(causal.training)


def _replace(root: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, child = name.rpartition(".")
    setattr(root.get_submodule(parent), child, module)
