"""The Qwen-Image VAE for one frame at a time: every causal 3-D convolution as the 2-D one of its last slice.

One frame is padded with zeros in the past, so the other temporal slices never see data. Training this copy is several
times faster and the result is the same VAE.
"""

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


def single_frame(vae: AutoencoderKLQwenImage) -> AutoencoderKLQwenImage:
    """A copy of `vae` for single frames. Call its `encoder` and `decoder` directly, without a feature cache."""
    lean = copy.deepcopy(vae)
    for name, module in vae.named_modules():
        if isinstance(module, QwenImageCausalConv3d) and not name.endswith("time_conv"):
            _replace(lean, name, _frame_convolution(module))
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


def _frame_convolution(causal: nn.Conv3d) -> FrameConvolution:
    size = int(causal.kernel_size[-1])
    flat = FrameConvolution(causal.in_channels, causal.out_channels, size, padding=size // 2)
    with torch.no_grad():
        flat.weight.copy_(causal.weight[:, :, -1])
        assert flat.bias is not None
        assert causal.bias is not None
        flat.bias.copy_(causal.bias)
    return flat


def _replace(root: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, child = name.rpartition(".")
    setattr(root.get_submodule(parent), child, module)
