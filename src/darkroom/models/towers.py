"""What Qwen's vision towers and the language models behind them say of one picture, level by level.

Every level is [N, D]: one row per merged cell of the picture, rows of the picture first, in the width D of the
language model behind the tower. Early levels come first.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Protocol

import torch
from torch import Tensor, nn

Seen = tuple[tuple[Tensor, ...], Tensor]
"""(levels, final tokens)."""


class Tower(Protocol):
    """One family's vision tower: `visual` is the module of transformers."""

    def levels(self, visual: Any) -> int:
        """How many levels `see` gives."""

    def see(self, visual: Any, pixels: Tensor, grid: Tensor) -> Seen:
        """pixels: patches as the family's processor lays them out; grid: [1, 3], patches (time, height, width)."""


class DeepStack:
    """Qwen3-VL: the levels that the tower itself hands to the language model beside its final tokens.

    Each has a merger of its own; the tower names them in its result. Meng et al., "DeepStack" (arXiv 2406.04334).
    """

    def levels(self, visual: Any) -> int:
        return len(visual.config.deepstack_visual_indexes)

    def see(self, visual: Any, pixels: Tensor, grid: Tensor) -> Seen:
        seen = visual(pixels, grid_thw=grid)
        return tuple(seen.deepstack_features), torch.as_tensor(seen.pooler_output)


class FullAttention:
    """Qwen2.5-VL: what its blocks of full attention say, through the tower's one merger; the last of them is final.

    The tower hands out no levels. Its blocks work on cells sorted by window, which is undone here.
    """

    def levels(self, visual: Any) -> int:
        return len(self._blocks(visual))

    def see(self, visual: Any, pixels: Tensor, grid: Tensor) -> Seen:
        from transformers.vision_utils import get_vision_window_index

        with outputs_of([visual.blocks[number] for number in self._blocks(visual)]) as outputs:
            final = visual(pixels, grid_thw=grid).pooler_output
        config = visual.config
        order, _ = get_vision_window_index(grid, config.spatial_merge_size, config.window_size, config.patch_size)
        by_rows = torch.argsort(order.to(final.device))
        return tuple(visual.merger(output)[by_rows] for output in outputs), final

    def _blocks(self, visual: Any) -> list[int]:
        return [number for number in visual.config.fullatt_block_indexes if number < len(visual.blocks) - 1]


TOWERS: Mapping[str, Tower] = {"qwen3_vl": DeepStack(), "qwen2_5_vl": FullAttention()}
"""By a checkpoint's `model_type`."""


def read(model: Any, ids: Tensor, seen: Seen, grid: Tensor, levels: int) -> Seen:
    """What the language model makes of the picture's cells at the picture's places in `ids` [1, L].

    The levels are the hidden states at equal distances through its layers, the final tokens those after its last norm.
    What stands in `ids` before the picture has been read by then; what stands behind it has not.
    """
    places = ids == model.config.image_token_id
    final = seen[1]
    embeds = model.get_input_embeddings()(ids)
    embeds = embeds.masked_scatter(places.unsqueeze(-1), final.to(embeds.dtype))
    positions, _ = model.get_rope_index(ids, mm_token_type_ids=places.int(), image_grid_thw=grid)
    stack = {"visual_pos_masks": places, "deepstack_visual_embeds": list(seen[0])} if is_deep(model) else {}
    layers = model.language_model.layers
    # A layer's input and not the output of the layer before it: DeepStack adds its levels between the two.
    with inputs_of([layers[number] for number in spread(len(layers), levels)]) as inputs:
        out = model.language_model(inputs_embeds=embeds, position_ids=positions, use_cache=False, **stack)
    return tuple(states[places] for states in inputs), out.last_hidden_state[places]


def is_deep(model: Any) -> bool:
    """Whether the language model takes DeepStack's levels."""
    return hasattr(model.visual.config, "deepstack_visual_indexes")


def spread(layers: int, levels: int) -> list[int]:
    """Numbers of layers, before which `levels` equal parts of the way have been gone: (36, 3) -> [9, 18, 27]."""
    return [max(1, round(layers * (level + 1) / (levels + 1))) for level in range(levels)]


@contextmanager
def outputs_of(modules: list[nn.Module]) -> Iterator[list[Tensor]]:
    """The first output of each module, in order, once they have run; the hooks are gone afterwards."""
    kept: list[Tensor] = []

    def keep(_module: nn.Module, _inputs: Any, output: Any) -> None:
        kept.append(output[0] if isinstance(output, tuple) else output)

    hooks = [module.register_forward_hook(keep) for module in modules]
    try:
        yield kept
    finally:
        for hook in hooks:
            hook.remove()


@contextmanager
def inputs_of(modules: list[nn.Module]) -> Iterator[list[Tensor]]:
    """As `outputs_of`, of what each module is given."""
    kept: list[Tensor] = []

    def keep(_module: nn.Module, inputs: Any, named: Mapping[str, Any]) -> None:
        kept.append(inputs[0] if inputs else named["hidden_states"])

    hooks = [module.register_forward_pre_hook(keep, with_kwargs=True) for module in modules]
    try:
        yield kept
    finally:
        for hook in hooks:
            hook.remove()
