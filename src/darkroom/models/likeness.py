"""Rulers of a sweep: how much a picture shows a person, and how much of the prompt.

For photographs both are CLIP's; for the pocket world its own identity encoder and the attributes read back from the
picture. Neither takes any part in making a picture.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from darkroom.errors import ModelNotReady
from darkroom.models.identity import ATTRIBUTES, POCKET_IDENTITY, load_identity

SIZE = (128, 128)


class Rulers(Protocol):
    """Both measures; pictures are RGB."""

    name: str

    def person(self, photos: Sequence[Image.Image]) -> Tensor:
        """[D] of length 1: who is in the photos, for `identity`."""

    def identity(self, picture: Image.Image, person: Tensor) -> float:
        """-1…1: the cosine between the picture's person and that one."""

    def adherence(self, picture: Image.Image, prompt: str) -> float | None:
        """How much of the prompt, without the person, is seen; None where it says nothing that could be seen."""


class PocketRulers:
    """The pocket world's people: an encoder of attributes; the prompt's by name, the background's colour by sight."""

    name = "pocket identity encoder; attributes of the prompt read back"

    def __init__(self, device: torch.device, weights: Path = POCKET_IDENTITY) -> None:
        try:
            self._encoder = load_identity(weights).to(device)
        except FileNotFoundError as error:
            raise ModelNotReady("the pocket world's identity encoder is missing; restore the weights") from error
        self._device = device

    def person(self, photos: Sequence[Image.Image]) -> Tensor:
        """The mean of the photos' embeddings."""
        mean = self._encoder.embed(self._pixels(photos)).mean(dim=0)
        return torch.as_tensor(mean / mean.norm())

    def identity(self, picture: Image.Image, person: Tensor) -> float:
        """0…1: of the attributes that are read, those that agree."""
        return float(self._encoder.embed(self._pixels([picture]))[0] @ person)

    def adherence(self, picture: Image.Image, prompt: str) -> float | None:
        """The share of attributes named in the prompt that the picture has."""
        named = prompted(prompt)
        if not named:
            return None
        seen = {**self._encoder.read(self._pixels([picture]))[0], "background": background(picture)}
        return sum(seen[attribute] == wanted for attribute, wanted in named.items()) / len(named)

    def _pixels(self, pictures: Sequence[Image.Image]) -> Tensor:
        arrays = [np.asarray(picture.convert("RGB").resize(SIZE, Image.Resampling.BICUBIC)) for picture in pictures]
        pixels = torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2).float()
        return (pixels / 127.5 - 1).to(self._device)


def prompted(prompt: str) -> dict[str, str]:
    """The attributes that a prompt names, in the words of the pocket world's captions."""
    text, named = prompt.lower(), dict[str, str]()
    for attribute in ("skin", "eyes", "shirt", "hat"):
        if found := re.search(rf"\b({'|'.join(ATTRIBUTES[attribute])}) {attribute}\b", text):
            named[attribute] = found[1]
    if found := re.search(rf"\b({'|'.join(ATTRIBUTES['cut'])}) ({'|'.join(ATTRIBUTES['hair'])}) hair\b", text):
        named |= {"cut": found[1], "hair": found[2]}
    if re.search(r"\bbald\b", text):
        named["cut"] = "bald"
    if found := re.search(r"\b(no |without (?:any )?)?glasses\b", text):
        named["glasses"] = "no" if found[1] else "yes"
    if re.search(r"\b(no|without (a|any)) hat\b", text):
        named["hat"] = "none"
    if found := re.search(rf"\b({'|'.join(_GROUNDS)}) background\b", text):
        named["background"] = found[1]
    return named


_GROUNDS = {
    "red": (0.85, 0.12, 0.12),
    "orange": (0.96, 0.53, 0.08),
    "yellow": (0.95, 0.87, 0.15),
    "green": (0.13, 0.62, 0.22),
    "blue": (0.13, 0.30, 0.85),
    "purple": (0.52, 0.17, 0.68),
    "white": (0.95, 0.95, 0.95),
    "black": (0.06, 0.06, 0.06),
}
"""The pocket world's colours by name, as a test shows."""


def background(picture: Image.Image) -> str:
    """The named colour nearest to the median of the picture's upper corners."""
    pixels = np.asarray(picture.convert("RGB").resize(SIZE), dtype=np.float64) / 255
    corners = np.concatenate([pixels[:12, :12].reshape(-1, 3), pixels[:12, -12:].reshape(-1, 3)])
    colour = np.median(corners, axis=0)
    return min(_GROUNDS, key=lambda name: float(np.sum((np.array(_GROUNDS[name]) - colour) ** 2)))


class ClipRulers:
    """CLIP: the cosine between pictures, and the cosine between picture and prompt."""

    def __init__(self, repo: str, device: torch.device) -> None:
        from transformers import CLIPModel, CLIPProcessor

        self.name = f"{repo if not Path(repo).is_dir() else Path(repo).name}, cosines"
        try:
            self._model = CLIPModel.from_pretrained(repo).eval().requires_grad_(False).to(device)
            self._processor: Any = CLIPProcessor.from_pretrained(repo)
        except OSError as error:
            raise ModelNotReady("the sweep's rulers (CLIP) could not be loaded; check HF_HOME and the net") from error
        self._device = device

    def person(self, photos: Sequence[Image.Image]) -> Tensor:
        """The mean of the photos' embeddings."""
        mean = self._seen(photos).mean(dim=0)
        return torch.as_tensor(mean / mean.norm())

    def identity(self, picture: Image.Image, person: Tensor) -> float:
        """The cosine of CLIP's image embeddings."""
        return float(self._seen([picture])[0] @ person)

    @torch.no_grad()
    def adherence(self, picture: Image.Image, prompt: str) -> float | None:
        """The cosine of CLIP's image and text embeddings."""
        if not prompt.strip():
            return None
        tokens = self._processor(text=[prompt], return_tensors="pt", truncation=True, padding=True).to(self._device)
        text = _pooled(self._model.get_text_features(**tokens))[0]
        return float(self._seen([picture])[0] @ (text / text.norm()))

    @torch.no_grad()
    def _seen(self, pictures: Sequence[Image.Image]) -> Tensor:
        pixels = self._processor(images=list(pictures), return_tensors="pt")["pixel_values"].to(self._device)
        found = _pooled(self._model.get_image_features(pixel_values=pixels))
        return torch.as_tensor(found / found.norm(dim=-1, keepdim=True))


def _pooled(features: Any) -> Tensor:
    """[B, D]; transformers 5 gives the projected embeddings as a model output."""
    return torch.as_tensor(getattr(features, "pooler_output", features))


def load_rulers(repo: str | None, device: torch.device) -> Rulers:
    """CLIP of that name or folder; None is the pocket world's own. Raises ModelNotReady."""
    return PocketRulers(device) if repo is None else ClipRulers(repo, device)
