"""Pictures as the transformer takes them: latents of the VAE, packed into cells."""

from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKLQwenImage
from numpy.typing import NDArray
from torch import Tensor

from darkroom.models.single_frame import single_frame
from darkroom.pocket.stages.compiling import compiled
from darkroom.pocket.stages.fast_numbers import autocast
from darkroom.technique.latents import normalise, pack

Bytes = NDArray[np.uint8]
# Pictures that are encoded together; compiled code knows no other number.
_AT_ONCE = 24


class Encoder:
    """A VAE's encoder on `device`. `compiles`: several times faster, after half a minute for each size of picture."""

    def __init__(self, vae: AutoencoderKLQwenImage, device: torch.device, compiles: bool = False) -> None:
        self._lean, self._device, self._compiles = single_frame(vae).to(device), device, compiles
        self._find = compiled(_means, device, dynamic=False) if compiles else _means
        self._mean, self._std = (torch.tensor(vae.config[name]) for name in ("latents_mean", "latents_std"))

    @torch.no_grad()
    def __call__(self, images: Bytes) -> Tensor:
        """[N, H/16 · W/16, 64] float16, normalised as the config says, from [N, H, W, 3] in 0…255.

        Equal pictures are encoded once: an edit and what undoes it share theirs.
        """
        places: dict[bytes, int] = {}
        order = [places.setdefault(image.tobytes(), len(places)) for image in images]
        first = [order.index(place) for place in range(len(places))]
        pixels = torch.from_numpy(images[first]).permute(0, 3, 1, 2)
        latents = torch.cat([self._latents(part) for part in pixels.split(_AT_ONCE)])
        return pack(normalise(latents, self._mean, self._std)).half()[order]

    def _latents(self, pixels: Tensor) -> Tensor:
        count = len(pixels)
        if self._compiles:
            pixels = pixels[torch.arange(_AT_ONCE).clamp(max=count - 1)]
        with autocast(self._device):
            found: Tensor = self._find(self._lean, pixels.to(self._device).float() / 127.5 - 1)
        return found[:count].float().cpu()


def _means(lean: Any, images: Tensor) -> Tensor:
    """[N, 16, 1, H/8, W/8] from [N, 3, H, W] in [-1, 1]."""
    moments: Tensor = lean.quant_conv(lean.encoder(images[:, :, None]))
    return moments.chunk(2, dim=1)[0]
