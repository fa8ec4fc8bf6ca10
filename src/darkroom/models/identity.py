"""Who is in a picture: the pocket world's identity encoder, which reads a person's attributes whatever the view.

Its embedding plays the part that ArcFace's, DINO's or CLIP's plays for photographs.
"""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional

POCKET_IDENTITY = Path(__file__).resolve().parent.parent / "pocket" / "weights" / "identity" / "encoder.safetensors"

ATTRIBUTES: dict[str, tuple[str, ...]] = {
    "skin": ("light", "tan", "brown", "dark"),
    "hair": ("red", "orange", "yellow", "green", "blue", "purple", "black", "white", "brown", "blond", "gray"),
    "cut": ("short", "long", "curly", "bald"),
    "eyes": ("blue", "green", "brown", "black"),
    "shirt": ("red", "orange", "yellow", "green", "blue", "purple", "black", "white"),
    "glasses": ("no", "yes"),
    "hat": ("none", "red", "orange", "yellow", "green", "blue", "purple", "black", "white"),
}
"""What it reads, and the answers that it can give; the pocket world's own, as a test shows."""

_WIDTHS = (24, 48, 96, 128)


class IdentityEncoder(nn.Module):
    """Four strided convolutions and what they find anywhere, on average and at most: 0.3 M parameters."""

    name = "pocket identity encoder"

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        before = 3
        for width in _WIDTHS:
            layers += [nn.Conv2d(before, width, 3, 2, 1), nn.GroupNorm(8, width), nn.GELU()]
            layers += [nn.Conv2d(width, width, 3, 1, 1, groups=width), nn.Conv2d(width, width, 1), nn.GELU()]
            before = width
        self.trunk = nn.Sequential(*layers)
        # What stands where matters: hair above, shirt below. Four bands of the picture are read each for itself.
        self.head = nn.Linear(2 * 4 * _WIDTHS[-1], sum(map(len, ATTRIBUTES.values())))

    def forward(self, pixels: Tensor) -> dict[str, Tensor]:
        """Logits [B, answers] of every attribute, from pictures [B, 3, H, W] in −1…1, brought to 128 × 128."""
        if pixels.shape[-2:] != (128, 128):
            pixels = functional.interpolate(pixels, (128, 128), mode="bilinear", antialias=True)
        maps = self.trunk(pixels)
        bands = torch.cat(
            [functional.adaptive_avg_pool2d(maps, (4, 1)), functional.adaptive_max_pool2d(maps, (4, 1))], 1
        )
        logits = self.head(bands.flatten(1)).split([len(answers) for answers in ATTRIBUTES.values()], dim=-1)
        return dict(zip(ATTRIBUTES, logits, strict=True))

    @torch.no_grad()
    def embed(self, pixels: Tensor) -> Tensor:
        """[B, 42], each of length 1: the probabilities of the answers, every attribute of equal weight.

        The cosine of two is 1 for two pictures with the same certain answers, 0 where no answer agrees.
        """
        parts = [functional.normalize(logits.softmax(dim=-1), dim=-1) for logits in self(pixels).values()]
        joined: Tensor = torch.cat(parts, dim=-1) / len(parts) ** 0.5
        return joined

    @torch.no_grad()
    def read(self, pixels: Tensor) -> list[dict[str, str]]:
        """Of each picture the likeliest answer to every attribute."""
        best = {name: logits.argmax(dim=-1).tolist() for name, logits in self(pixels).items()}
        return [{name: ATTRIBUTES[name][found[i]] for name, found in best.items()} for i in range(len(pixels))]


def load_identity(path: Path = POCKET_IDENTITY) -> IdentityEncoder:
    """The encoder saved at `path` in float16, frozen, in float32."""
    encoder = IdentityEncoder()
    encoder.load_state_dict({name: value.float() for name, value in load_file(path).items()})
    return encoder.requires_grad_(False).eval()
