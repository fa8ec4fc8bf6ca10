"""A vision model as a pair of eyes: what Qwen3-VL or Qwen2.5-VL sees of a picture, by levels, on a grid of cells.

Only cells of the picture are ever given, no token of a template. Without a prompt the vision tower alone runs, and
alone need be loaded. With one, the language model reads the prompt first and then the picture, since its attention is
causal; its hidden states at the picture's places take the tower's place.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from PIL.Image import Image, Resampling
from torch import Tensor, nn
from torch.nn import functional

from darkroom.errors import ModelNotReady
from darkroom.models.cache import TensorCache, picture_key
from darkroom.models.parts import header
from darkroom.models.precision import compute_dtype, quantise, stored_bytes
from darkroom.models.residency import Resident
from darkroom.models.sight import plain
from darkroom.models.specs import Precision
from darkroom.models.towers import TOWERS, Seen, read

CLASSES = {
    "qwen3_vl": ("Qwen3VLForConditionalGeneration", "Qwen3VLVisionModel"),
    "qwen2_5_vl": ("Qwen2_5_VLForConditionalGeneration", "Qwen2_5_VisionTransformerPretrainedModel"),
}
"""A checkpoint's `model_type` -> the whole model and its tower alone, in transformers."""

Grid = tuple[int, int]
"""(rows, columns) of merged cells."""


@dataclass(frozen=True)
class Sight:
    """What a vision model sees of one picture; N = rows · columns of `grid`, row by row.

    levels: [N, D] each, early to late. final: [N, D], what the tower hands to its language model at the end.
    """

    levels: tuple[Tensor, ...]
    final: Tensor
    grid: Grid

    def on(self, grid: Grid) -> Sight:
        """The same on another grid, interpolated bilinearly between the cells' centres (align_corners=False)."""
        if grid == self.grid:
            return self
        moved = [interpolate(tokens, self.grid, grid) for tokens in (*self.levels, self.final)]
        return Sight(tuple(moved[:-1]), moved[-1], grid)


class VisionExtractor:
    """Qwen3-VL or Qwen2.5-VL, to look with; dimensions are read off the model. Not thread-safe.

    `model` is transformers' model that has `visual` and, unless it came without, `language_model`; `image_processor`
    and `tokenizer` are its own. What has been seen is kept in `cache`, under the name of `identity`.
    """

    def __init__(
        self,
        model: Any,
        image_processor: Any,
        tokenizer: Any,
        *,
        residency: Resident | None = None,
        cache: TensorCache | None = None,
        identity: Hashable = None,
    ) -> None:
        self.model, self.image_processor, self.tokenizer = model, image_processor, tokenizer
        self._tower = TOWERS[model.config.model_type]
        self._residency = residency or Resident(model.device)
        self._cache, self._identity = cache or TensorCache(0), identity

    @classmethod
    def load(
        cls,
        folder: Path,
        device: torch.device,
        precision: Precision = "float32",
        language: bool = True,
        *,
        residency: Resident | None = None,
        cache: TensorCache | None = None,
        identity: Hashable = None,
    ) -> VisionExtractor:
        """From a folder with weights, image processor and tokenizer. Raises ModelNotReady for other families.

        language: False leaves the language model out, which is most of the weights; no prompt can then be read.
        residency, cache, identity: as the extractor takes them.
        """
        model = load_model(folder, precision, language).to(device)
        image_processor, tokenizer = load_processors(folder)
        return cls(
            model, image_processor, tokenizer, residency=residency, cache=cache, identity=identity or str(folder)
        )

    @property
    def hidden_size(self) -> int:
        """D, the width of every level and of the final tokens."""
        return int(self.model.config.vision_config.out_hidden_size)

    @property
    def cell(self) -> int:
        """Pixels of one merged cell, a side."""
        vision = self.model.config.vision_config
        return int(vision.patch_size * vision.spatial_merge_size)

    @property
    def levels(self) -> int:
        """How many levels a Sight has."""
        return self._tower.levels(self.model.visual)

    @property
    def reads(self) -> bool:
        """Whether the language model is there, so that a prompt can be given."""
        return getattr(self.model, "language_model", None) is not None

    def look(
        self, picture: Image, *, grid: Grid | None = None, pixels: int | None = None, prompt: str | None = None
    ) -> Sight:
        """What the model sees of an RGB picture, from the cache where it has been seen before.

        grid: the picture is resized to exactly so many cells, so that another model's grid can be met. pixels: it
        is resized to about that area at its own aspect. With neither, its own size counts, within the processor's
        limits. prompt: read before the picture. Raises ValueError for a prompt where the language model was left out.
        """
        if grid is not None and pixels is not None:
            raise ValueError("give either the grid or the pixels of a sight, not both")
        if prompt is not None and not self.reads:
            raise ValueError("this vision model was loaded without its language model and cannot read a prompt")
        grid = grid or self.natural_grid(picture, pixels)
        key = (self._identity, "sight", picture_key(picture), grid, prompt)
        make = partial(self._look, picture, grid, prompt)
        *levels, final = self._cache.get(key, make) if self._cache.limit_bytes else make()
        return Sight(tuple(levels), final, grid)

    def natural_grid(self, picture: Image, pixels: int | None = None) -> Grid:
        """The grid that a picture has at about `pixels` of area, or at its own within the processor's limits."""
        own = picture.width * picture.height
        if pixels is None:
            size = self.image_processor.size
            pixels = min(max(own, size["shortest_edge"]), size["longest_edge"])
        scale = (pixels / own) ** 0.5 / self.cell
        return max(1, round(picture.height * scale)), max(1, round(picture.width * scale))

    def _look(self, picture: Image, grid: Grid, prompt: str | None) -> tuple[Tensor, ...]:
        try:
            self._residency.use(self.model)
            return self._seen(picture, grid, prompt)
        finally:
            self._residency.rest(self.model)

    @torch.no_grad()
    def _seen(self, picture: Image, grid: Grid, prompt: str | None) -> tuple[Tensor, ...]:
        size = (grid[1] * self.cell, grid[0] * self.cell)
        resized = picture if picture.size == size else picture.resize(size, Resampling.BICUBIC)
        inputs = self.image_processor(images=[resized], do_resize=False, return_tensors="pt")
        patches = inputs["image_grid_thw"].to(self.model.device)
        pixels = inputs["pixel_values"].to(self.model.device, self.model.visual.dtype)
        seen: Seen = self._tower.see(self.model.visual, pixels, patches)
        if prompt is not None:
            seen = read(self.model, self._ids(prompt, grid), seen, patches, self.levels)
        return (*seen[0], seen[1])

    def _ids(self, prompt: str, grid: Grid) -> Tensor:
        """[1, L]: a user's turn with the prompt and then the picture; nothing that comes after it could matter."""
        picture = f"<|vision_start|>{'<|image_pad|>' * (grid[0] * grid[1])}"
        text = f"<|im_start|>user\n{plain(self.tokenizer, prompt)}{picture}"
        return torch.tensor([self.tokenizer(text)["input_ids"]], device=self.model.device)


class Eyes(nn.Module):
    """A vision tower without the language model behind it."""

    language_model = None

    def __init__(self, visual: Any, config: Any) -> None:
        super().__init__()
        self.visual, self.config = visual, config

    @property
    def device(self) -> torch.device:
        """Where the tower is."""
        return torch.device(self.visual.device)


def load_model(folder: Path, precision: Precision, language: bool) -> Any:
    """The model in evaluation mode on the CPU, frozen, without its language head. Raises ModelNotReady."""
    import transformers

    config = transformers.AutoConfig.from_pretrained(folder)
    if config.model_type not in CLASSES:
        raise ModelNotReady(f"the vision model is of type {config.model_type}; known are {', '.join(CLASSES)}")
    whole, tower = (getattr(transformers, name) for name in CLASSES[config.model_type])
    dtype = compute_dtype(precision)
    if language:
        model = whole.from_pretrained(folder, dtype=dtype).model
    else:
        # A class of its own, so that the weights that are left out are not reported as a fault.
        quiet: Any = type(
            tower.__name__, (tower,), {"_keys_to_ignore_on_load_unexpected": ["language_model", "lm_head"]}
        )
        model = Eyes(quiet.from_pretrained(folder, dtype=dtype, key_mapping={r"^(model\.)?visual\.": ""}), config)
    model.eval().requires_grad_(False)
    return quantise(model, "vision", precision)


def expected_bytes(folder: Path, precision: Precision, language: bool) -> int:
    """What `load_model` will take, from the headers of the files; nothing is loaded."""
    named = [entry for path in sorted(folder.glob("*.safetensors")) for entry in header(path)]
    kept = [(name, shape) for name, shape in named if "visual." in name or (language and "lm_head" not in name)]
    return sum(stored_bytes("vision", name.removeprefix("model."), shape, precision) for name, shape in kept)


def load_processors(folder: Path) -> tuple[Any, Any]:
    """(image processor, tokenizer)."""
    from transformers import AutoImageProcessor, AutoTokenizer

    return AutoImageProcessor.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)


def interpolate(tokens: Tensor, grid: Grid, onto: Grid) -> Tensor:
    """[rows · columns, D] of `grid` -> [rows · columns, D] of `onto`, bilinearly, in float32 on the way."""
    plane = tokens.float().T.reshape(1, tokens.shape[1], *grid)
    moved = functional.interpolate(plane, size=onto, mode="bilinear", align_corners=False)
    return moved.flatten(2)[0].T.to(tokens.dtype)
