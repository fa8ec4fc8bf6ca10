"""Qwen-Image-Edit with a bridge: the same pictures and prompts with the model's own sight, and with the bridge's.

For use without the service: load an editor and a vision model, open a bridge, and `compare`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from PIL.Image import Image
from torch import Tensor

from darkroom.errors import Internal
from darkroom.models.areas import Areas
from darkroom.models.bridge import Bridge, Bridged, fuse
from darkroom.models.editor import Conditioning, Editor, References, fit
from darkroom.models.vision import Grid, Sight, VisionExtractor
from darkroom.technique.bridge import BridgeConfig
from darkroom.technique.sampling import SampleStep, sample


@dataclass(frozen=True)
class Pair:
    """The same pictures as the baseline sees them and as the bridge lets it see them.

    Both share the VAE's latents, noise, prompts and all else. attention: as `Bridged.attention`.
    """

    baseline: References
    enhanced: References
    attention: tuple[Tensor | None, ...]


@dataclass(frozen=True)
class Sampling:
    """How both are sampled. size: (width, height) in pixels, None to follow the last picture. shift: log shift."""

    steps: int = 8
    true_cfg_scale: float = 4.0
    negative_prompt: str = " "
    size: tuple[int, int] | None = None
    shift: float | None = None


def sight_grid(size: tuple[int, int], areas: Areas, image_processor: Any) -> Grid:
    """(rows, columns) of merged cells on which an editor's Qwen2.5-VL will see a picture of (width, height).

    Known without the editor, so that another vision model can look, and go, before it is loaded.
    """
    from transformers.models.qwen2_vl.image_processing_qwen2_vl import smart_resize

    width, height = fit(areas.sight, size[0] / size[1])
    cell = image_processor.patch_size * image_processor.merge_size
    limits = image_processor.size
    height, width = smart_resize(height, width, cell, limits["shortest_edge"], limits["longest_edge"])
    return height // cell, width // cell


def form_for(editor: Editor, extractor: VisionExtractor, **changes: Any) -> BridgeConfig:
    """The form of a bridge between two models, with their dimensions read off them."""
    width = int(editor.text_encoder.config.text_config.hidden_size)
    return BridgeConfig(width, extractor.hidden_size, extractor.levels, **changes)


class EnhancedEditor:
    """An editor and the bridge that it may see through. Holds no state of any job."""

    def __init__(self, editor: Editor, bridge: Bridge) -> None:
        self.editor, self.bridge = editor, bridge

    @property
    def merge(self) -> int:
        """Patches of one merged cell, a side."""
        return int(self.editor.processor.image_processor.merge_size)

    def sights(
        self, extractor: VisionExtractor, images: Sequence[Image], prompt: str | None = None, exact: bool = True
    ) -> list[Sight]:
        """What the other model sees of the pictures: on the editor's own grid, or (exact=False) on its own grid."""
        image_processor = self.editor.processor.image_processor
        grids = [sight_grid(image.size, self.editor.areas, image_processor) if exact else None for image in images]
        return [extractor.look(image, grid=grid, prompt=prompt) for image, grid in zip(images, grids, strict=True)]

    def pair(
        self, images: Sequence[Image], sights: Sequence[Sight], sight_images: Sequence[Image] | None = None
    ) -> Pair:
        """Encode 1-3 RGB pictures once for both. sight_images: as `Editor.reference`'s; `sights` are then of these.

        Raises InvalidInput where the bridge does not fit these models.
        """
        return self.through(self.editor.reference(images, sight_images), sights)

    def through(self, baseline: References, sights: Sequence[Sight]) -> Pair:
        """Pictures that are encoded already, and what the bridge makes of them. Raises as `pair`."""
        bridged: Bridged = fuse(self.bridge, baseline.visual, sights, self.merge)
        return Pair(baseline, replace(baseline, visual=bridged.visual), bridged.attention)

    def condition(self, prompt: str, references: References, sampling: Sampling, count: int = 1) -> Conditioning:
        """One prompt for `count` pictures; its negative where CFG is on. Raises PromptTooLong."""
        negative = sampling.negative_prompt if sampling.true_cfg_scale > 1 else None
        return self.editor.condition([prompt] * count, references, negative)

    def sample(self, conditioning: Conditioning, sampling: Sampling, seeds: Sequence[int]) -> Iterator[SampleStep]:
        """The denoising steps of one picture per seed."""
        editor = self.editor
        width, height = editor.output_size(conditioning.references, sampling.size)
        denoise = editor.denoiser(conditioning, width, height, sampling.true_cfg_scale)
        sigmas = editor.sigmas(sampling.steps, width, height, sampling.shift)
        yield from sample(denoise, editor.noise(seeds, width, height), sigmas)

    def render(self, prompt: str, references: References, sampling: Sampling, seeds: Sequence[int]) -> Tensor:
        """Pictures [len(seeds), 3, height, width] in -1…1."""
        conditioning = self.condition(prompt, references, sampling, len(seeds))
        for step in self.sample(conditioning, sampling, seeds):
            latents = step.latents
        return self.editor.decode(latents, *self.editor.output_size(references, sampling.size))

    def compare(
        self, images: Sequence[Image], sights: Sequence[Sight], prompt: str, sampling: Sampling, seeds: Sequence[int]
    ) -> tuple[Tensor, Tensor, Pair]:
        """(baseline, enhanced, what both saw): pictures [len(seeds), 3, height, width] in -1…1, from the same noise."""
        pair = self.pair(images, sights)
        baseline, enhanced = (self.render(prompt, side, sampling, seeds) for side in (pair.baseline, pair.enhanced))
        return baseline, enhanced, pair


def make_sure(bridge: Bridge, pair: Pair, baseline: Conditioning, enhanced: Conditioning) -> None:
    """Raise Internal unless the bridge did what it must do: change both branches, or nothing at all while untrained.

    What is called enhanced is then never the baseline under another name.
    """
    same_tokens = torch.equal(pair.baseline.visual.tokens, pair.enhanced.visual.tokens)
    if pair.enhanced.visual.bridged != len(pair.baseline.visual.tokens) or same_tokens != bridge.is_identity:
        raise Internal("the bridge did not change the visual tokens as it should")
    branches = [(baseline.prompts[0], enhanced.prompts[0])]
    if baseline.negative is not None and enhanced.negative is not None:
        branches.append((baseline.negative, enhanced.negative))
    for before, after in branches:
        if torch.equal(before, after) != bridge.is_identity:
            raise Internal("the bridge did not reach the prompt's embeddings")
