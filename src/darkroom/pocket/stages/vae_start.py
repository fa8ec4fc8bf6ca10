"""A start for the VAE from which training is quick: a linear code of 8 × 8 cells, a decoder that knows their colour.

From default weights the pocket VAE stays near 13 dB for a long time. Here the encoder begins as a two-stage principal
component analysis (2 × 2 pixels kept whole, 4 × 4 to 31 numbers, 8 × 8 to 16), written into its own convolutions, and
the decoder begins by painting each cell in its mean colour. Residual branches begin at zero. Latents that begin linear
in the picture stay nearly so, which makes tone edits nearly linear for the transformer.

Two tricks carry values unharmed through the network's norms: a large constant channel (the anchor) makes the RMS norm
almost constant, and silu(x) − silu(−x) = x.
"""

import torch
from diffusers import AutoencoderKLQwenImage
from diffusers.models.autoencoders.autoencoder_kl_qwenimage import QwenImageResidualBlock
from torch import Tensor, nn

_ENCODER_ANCHOR = 24.0
_DECODER_ANCHOR = 8.0
_LATENTS = 16
_MIDDLE = 31


def start_vae(lean: AutoencoderKLQwenImage, images: Tensor) -> None:
    """Overwrite the weights of `lean` (from `single_frame`) in place.

    `images`: [B, 3, H, W] in [−1, 1], sides divisible by 8; the components are fitted to them.
    """
    with torch.no_grad():
        middle, final, colour = _components(images)
        _quiet(lean)
        _start_encoder(lean, middle, final)
        _start_decoder(lean, colour)


def _components(images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Maps 48 → 31 (4 × 4 pixels), 124 → 16 (2 × 2 of the former, unit variance), and 16 → 3 (a cell's mean colour)."""
    middle = _principal(_cells(_cells(images)), _MIDDLE)
    features = _cells(_apply(middle, _cells(_cells(images))))
    final = _principal(features, _LATENTS)
    codes = _columns(_apply(final, features))
    final = final / codes.std(dim=1, keepdim=True)
    codes = codes / codes.std(dim=1, keepdim=True)
    means = _columns(nn.functional.avg_pool2d(images, 8))
    colour = torch.linalg.lstsq(codes.T, means.T).solution.T
    return middle, final, colour


def _cells(x: Tensor) -> Tensor:
    """[B, C, H, W] → [B, 4C, H/2, W/2], channel (row, column, C)."""
    return torch.cat([x[:, :, row::2, column::2] for row in (0, 1) for column in (0, 1)], dim=1)


def _columns(x: Tensor) -> Tensor:
    return x.transpose(0, 1).flatten(1)


def _apply(matrix: Tensor, x: Tensor) -> Tensor:
    return torch.einsum("oi,bihw->bohw", matrix, x)


def _principal(x: Tensor, count: int) -> Tensor:
    """[count, C]: the leading directions of the channels of [B, C, H, W], uncentred."""
    flat = _columns(x)
    _, vectors = torch.linalg.eigh(flat @ flat.T / flat.shape[1])
    leading: Tensor = vectors.flip(1)[:, :count].T.contiguous()
    return leading


def _quiet(lean: AutoencoderKLQwenImage) -> None:
    """Residual and attention branches begin at zero, the other convolutions small."""
    for name, module in lean.named_modules():
        if isinstance(module, QwenImageResidualBlock):
            nn.init.zeros_(module.conv2.weight)
            nn.init.zeros_(module.conv2.bias)
        elif isinstance(module, nn.Conv2d) and not name.endswith(("conv1", "conv2", "to_qkv")):
            module.weight.mul_(0.02 if not name.endswith("proj") else 0.0)
            assert module.bias is not None
            nn.init.zeros_(module.bias)


def _start_encoder(lean: AutoencoderKLQwenImage, middle: Tensor, final: Tensor) -> None:
    encoder = lean.encoder
    down = encoder.down_blocks  # residual, down, residual, down, residual, down, residual
    for channel in range(3):
        encoder.conv_in.weight[channel, channel, 1, 1] = 1
    encoder.conv_in.bias[15] = _ENCODER_ANCHOR
    _cell_map(down[1].resample[1], torch.eye(12), [0, 1, 2], anchors=(15, 15))
    _carry(down[2].conv_shortcut, 12, anchors=(15, 31))
    _cell_map(down[3].resample[1], middle, list(range(12)), anchors=(31, 31))
    _carry(down[4].conv_shortcut, _MIDDLE, anchors=(31, 63))
    _cell_map(down[5].resample[1], torch.cat([final, -final]), list(range(_MIDDLE)), anchors=(63, 63))
    _calm_norms(encoder, _ENCODER_ANCHOR)
    encoder.norm_out.gamma.fill_(_ENCODER_ANCHOR / 8)
    for latent in range(_LATENTS):
        encoder.conv_out.weight[latent, latent, 1, 1] = 1
        encoder.conv_out.weight[latent, _LATENTS + latent, 1, 1] = -1
    encoder.conv_out.bias[_LATENTS:] = -6
    lean.quant_conv.weight[:, :, 0, 0].copy_(torch.eye(2 * _LATENTS))


def _start_decoder(lean: AutoencoderKLQwenImage, colour: Tensor) -> None:
    decoder = lean.decoder
    lean.post_quant_conv.weight[:, :, 0, 0].copy_(torch.eye(_LATENTS))
    decoder.conv_in.weight[0:3, :, 1, 1] = colour
    decoder.conv_in.weight[3:6, :, 1, 1] = -colour
    decoder.conv_in.bias[6] = _DECODER_ANCHOR
    for latent in range(_LATENTS):
        decoder.conv_in.weight[7 + latent, latent, 1, 1] = 1
    for block in decoder.up_blocks:
        shortcut = block.resnets[0].conv_shortcut
        if isinstance(shortcut, nn.Conv2d):
            _carry(shortcut, shortcut.in_channels)
        if block.upsamplers is not None:
            _carry(block.upsamplers[0].resample[1], block.upsamplers[0].resample[1].out_channels)
    decoder.norm_out.gamma.fill_(_DECODER_ANCHOR / 4)
    for channel in range(3):
        decoder.conv_out.weight[channel, channel, 1, 1] = 1
        decoder.conv_out.weight[channel, channel + 3, 1, 1] = -1


def _cell_map(conv: nn.Conv2d, matrix: Tensor, inputs: list[int], anchors: tuple[int, int]) -> None:
    """Let a stride-2 convolution apply `matrix` to each 2 × 2 cell of the channels `inputs`."""
    conv.weight.mul_(0.2)
    taps = matrix.view(len(matrix), 2, 2, len(inputs)).permute(0, 3, 1, 2)
    conv.weight[: len(matrix)] = 0
    conv.weight[: len(matrix), inputs, :2, :2] = taps
    conv.weight[anchors[1]] = 0
    conv.weight[anchors[1], anchors[0], 0, 0] = 1


def _carry(conv: nn.Conv2d, channels: int, anchors: tuple[int, int] | None = None) -> None:
    """Let a convolution hand its first `channels` inputs on, and the anchor."""
    middle = conv.kernel_size[0] // 2
    for channel in range(channels):
        conv.weight[channel] = 0
        conv.weight[channel, channel, middle, middle] = 1
    if anchors is not None:
        conv.weight[anchors[1]] = 0
        conv.weight[anchors[1], anchors[0], middle, middle] = 1


def _calm_norms(encoder: nn.Module, anchor: float) -> None:
    """Undo, inside the residual branches, what the anchor does to the scale of the other channels."""
    for module in encoder.modules():
        if isinstance(module, QwenImageResidualBlock):
            channels = module.in_dim
            module.norm1.gamma.fill_(anchor / channels**0.5)
            module.norm1.gamma[-1] = 1 / channels**0.5
