"""What pictures look alike by: feature maps for Gram matrices and a perceptual distance, from one set of weights.

With torchvision's VGG16 in torch's own cache this is VGG16 at the four taps of Gatys' style and LPIPS of Zhang et al.
on the same trunk. Without, it is the pocket's own small encoder, trained on its own world, with an LPIPS-like distance;
`Perceptual.name` says which, for replies and reports.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

POCKET_ENCODER = Path(__file__).resolve().parent.parent / "pocket" / "weights" / "perceptual" / "encoder.safetensors"
VGG_FILE = "vgg16-397923af.pth"
"""torchvision's VGG16_Weights.IMAGENET1K_V1, as torch.hub names it in its cache."""

TAPS = (3, 8, 15, 22)
"""relu1_2, relu2_2, relu3_3 and relu4_3 among torchvision's `vgg16().features`."""

WIDTHS = (16, 32, 64, 96)
_CONVOLUTIONS = (2, 2, 3, 3)


class Perceptual(Protocol):
    """Feature maps and a distance between pictures [B, 3, H, W] in -1…1, both with gradients."""

    name: str

    def features(self, pixels: Tensor) -> list[Tensor]:
        """Four maps [B, C_i, H / 2^i, W / 2^i], after their ReLU."""

    def distance(self, one: Tensor, other: Tensor) -> Tensor:
        """[B]: 0 for equal pictures."""


def load_perceptual(device: torch.device, cache: Path | None = None) -> Perceptual:
    """VGG16 with LPIPS where the weights lie in `cache` (torch.hub's checkpoints by default), else the pocket encoder.

    Nothing is fetched. Load once and keep: a job's frames share it.
    """
    folder = cache or Path(torch.hub.get_dir()) / "checkpoints"
    found = folder / VGG_FILE
    return VggPerceptual(found).to(device) if found.is_file() else load_pocket(POCKET_ENCODER).to(device)


class VggPerceptual(nn.Module):
    """torchvision's VGG16 and the linear weights that lpips ships, on one trunk."""

    name = "VGG16, LPIPS"

    def __init__(self, weights: Path) -> None:
        super().__init__()
        import lpips

        with warnings.catch_warnings():
            # lpips 0.1.4 asks torchvision for "no weights" by an argument that has since been renamed.
            warnings.filterwarnings("ignore", message=".*pretrained.*", category=UserWarning)
            warnings.filterwarnings("ignore", message=".*weight enum.*", category=UserWarning)
            self.lpips: Any = lpips.LPIPS(net="vgg", pnet_rand=True, verbose=False)
        self._fill(torch.load(weights, weights_only=True, map_location="cpu", mmap=True))
        self.requires_grad_(False).eval()

    def _fill(self, state: dict[str, Tensor]) -> None:
        """lpips keeps torchvision's layer numbers within its slices: features.5 is slice2.5."""
        layers = {key.removeprefix("features."): value for key, value in state.items() if key.startswith("features.")}
        for piece in (
            self.lpips.net.slice1,
            self.lpips.net.slice2,
            self.lpips.net.slice3,
            self.lpips.net.slice4,
            self.lpips.net.slice5,
        ):
            piece.load_state_dict({key: layers[key] for key in piece.state_dict()})

    def features(self, pixels: Tensor) -> list[Tensor]:
        """At TAPS, of the picture normalised as ImageNet's."""
        net, maps = self.lpips.net, [self.lpips.scaling_layer(pixels)]
        for piece in (net.slice1, net.slice2, net.slice3, net.slice4):
            maps.append(piece(maps[-1]))
        return maps[1:]

    def distance(self, one: Tensor, other: Tensor) -> Tensor:
        """[B]: LPIPS 0.1. Zhang et al., "The unreasonable effectiveness of deep features", CVPR 2018."""
        return torch.as_tensor(self.lpips(one, other)).flatten()


class PocketEncoder(nn.Module):
    """VGG16's first four blocks, narrow: 0.3 M parameters, taps where VGG16 has them."""

    name = "pocket encoder, LPIPS-like"

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList()
        width_before = 3
        for number, (width, count) in enumerate(zip(WIDTHS, _CONVOLUTIONS, strict=True)):
            layers: list[nn.Module] = [nn.MaxPool2d(2)] if number else []
            for _ in range(count):
                layers += [nn.Conv2d(width_before, width, 3, padding=1), nn.ReLU()]
                width_before = width
            self.blocks.append(nn.Sequential(*layers))

    def features(self, pixels: Tensor) -> list[Tensor]:
        """After the last ReLU of each block."""
        maps = [pixels]
        for block in self.blocks:
            maps.append(block(maps[-1]))
        return maps[1:]

    def distance(self, one: Tensor, other: Tensor) -> Tensor:
        """[B]: squared distance between features of unit length, averaged over places, summed over taps."""
        return feature_distance(self.features(one), self.features(other))


def feature_distance(one: Sequence[Tensor], other: Sequence[Tensor]) -> Tensor:
    """[B]: LPIPS with all its linear weights 1. Each map [B, C, H, W] is brought to unit length over its channels."""
    gaps = [(_unit(a) - _unit(b)).square().sum(dim=1).mean(dim=(1, 2)) for a, b in zip(one, other, strict=True)]
    return torch.stack(gaps).sum(dim=0)


def load_pocket(path: Path = POCKET_ENCODER) -> PocketEncoder:
    """The encoder saved at `path` in float16, frozen, in float32."""
    encoder = PocketEncoder()
    encoder.load_state_dict({name: value.float() for name, value in load_file(path).items()})
    return encoder.requires_grad_(False).eval()


def _unit(features: Tensor) -> Tensor:
    # Inside the root: at a point where every channel is 0, its gradient would be infinite.
    return features / (features.square().sum(dim=1, keepdim=True) + 1e-10).sqrt()
