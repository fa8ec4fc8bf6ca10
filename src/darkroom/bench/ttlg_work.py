"""The work that guidance adds to a frame at the real model's shapes, counted on tensors without memory."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from darkroom.models.differentiable import decode_frame
from darkroom.models.full_size import TRANSFORMER
from darkroom.models.single_frame import single_frame
from darkroom.technique.schedule import Schedule
from darkroom.technique.windows import WINDOWS, guided_steps

SCHEDULE = Schedule(base_shift=0.5, max_shift=0.9, max_image_seq_len=8192, shift_terminal=0.02)
"""Qwen-Image-Edit's published scheduler configuration."""

# Instruction, template and what Qwen2.5-VL sees of three pictures at 384² each.
_TEXT_TOKENS = 3 * 196 + 90


@dataclass(frozen=True)
class FrameWork:
    """FLOPs (a multiplication with its addition counts as two) of one frame.

    forward: one pass of the transformer. decode: one of the VAE's decoder. iterations: by the losses that share one,
    what an iteration costs, VGG apart; features: what VGG adds to one. guidance: all of it over the frame.
    """

    forward: float
    forwards: int
    decode: float
    iterations: Mapping[int, float]
    features: float
    guidance: float

    @property
    def share(self) -> float:
        """Guidance beside the denoising that it is added to."""
        return self.guidance / (self.forward * self.forwards)


def frame_work(
    losses: Sequence[str] = ("edge", "gram"), iterations: int = 2, side: int = 1024, steps: int = 50
) -> FrameWork:
    """Guidance through the VAE with its default windows: `side`² pixels, three references as large, true CFG."""
    sigmas = SCHEDULE.sigmas(steps, (side // 16) ** 2)
    windows = {name: guided_steps(sigmas, WINDOWS[name]) for name in losses}
    vae, vgg = _decoder(), _vgg()
    latents = torch.empty(1, 16, 1, side // 8, side // 8, device="meta")
    decode = _flops(partial(_quiet, decode_frame, vae, latents))
    cost = {count: _flops(partial(_way, vae, latents, count)) for count in range(1, len(losses) + 1)}
    features = _flops(partial(_features, vgg, side))
    guidance = 0.0
    for step in range(steps):
        active = [name for name in losses if step in windows[name]]
        if active:
            guidance += iterations * (cost[len(active)] + features * ("gram" in active))
    return FrameWork(_forward(side), 2 * steps, decode, cost, features, guidance)


def _flops(work: Callable[[], Any]) -> float:
    with FlopCounterMode(display=False) as counter:
        work()
    return float(counter.get_total_flops())


@torch.no_grad()
def _quiet(function: Callable[..., Any], *arguments: Any) -> Any:
    return function(*arguments)


def _way(vae: Any, latents: Tensor, losses: int) -> None:
    """There, and back for so many losses at once, as technique.guidance goes."""
    # Times 1, because a counter cannot tell a leaf that enters a module from its own.
    leaf = latents.clone().requires_grad_()
    pixels = decode_frame(vae, leaf * 1)
    for _ in range(losses):
        torch.autograd.grad(pixels, leaf, torch.empty_like(pixels), retain_graph=True)


def _features(vgg: Any, side: int) -> None:
    pixels = torch.empty(1, 3, side, side, device="meta").requires_grad_()
    last = vgg(pixels * 1)
    torch.autograd.grad(last, pixels, torch.empty_like(last))


def _decoder() -> Any:
    from diffusers import AutoencoderKLQwenImage

    with torch.device("meta"):
        vae = AutoencoderKLQwenImage()
    return single_frame(vae.requires_grad_(False), share=True)


def _vgg() -> Any:
    from torchvision.models.vgg import cfgs, make_layers

    with torch.device("meta"):
        return make_layers(cfgs["D"])[:23].requires_grad_(False)


def _forward(side: int) -> float:
    """A forward of the transformer: every layer costs the same, so two small models tell what sixty cost."""
    one, two = (_flops(partial(_quiet, _transformer, layers, side)) for layers in (1, 2))
    return one + (two - one) * (int(TRANSFORMER["num_layers"]) - 1)


def _transformer(layers: int, side: int) -> None:
    from diffusers import QwenImageTransformer2DModel

    grid = (1, side // 16, side // 16)
    with torch.device("meta"):
        model = QwenImageTransformer2DModel(**{**TRANSFORMER, "num_layers": layers})
        model(
            hidden_states=torch.empty(1, 4 * grid[1] * grid[2], 64),
            timestep=torch.empty(1),
            encoder_hidden_states=torch.empty(1, _TEXT_TOKENS, 3584),
            encoder_hidden_states_mask=None,
            img_shapes=[[grid] * 4],
            return_dict=False,
        )
