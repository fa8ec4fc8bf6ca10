"""What two vision models say of the same picture, in numbers: shapes, counts, sizes, and what a bridge would cost."""

from __future__ import annotations

import time
from typing import Any

from PIL.Image import Image
from torch import Tensor

from darkroom.models.enhanced import form_for, sight_grid
from darkroom.models.shelf import Shelf
from darkroom.models.vision import Sight
from darkroom.technique.bridge import BridgeConfig, parameters_of

LEVEL_NAMES = ("early", "mid", "late")


def level_names(count: int) -> tuple[str, ...]:
    """Names of so many levels, early to late."""
    return LEVEL_NAMES if count == len(LEVEL_NAMES) else tuple(f"level{number}" for number in range(count))


def cache_report(sight: Sight, baseline: Tensor, grid: tuple[int, int], config: BridgeConfig) -> dict[str, Any]:
    """JSON values. baseline: [N, D], the editor's own visual tokens of the picture on `grid`; config: of a bridge
    between the two. Memory is that of the tensors and of the bridge's parameters in float32."""
    features = {**dict(zip(level_names(len(sight.levels)), sight.levels, strict=True)), "final": sight.final}
    count = parameters_of(config)
    return {
        "extractor": {
            "grid": list(sight.grid),
            "tokens": len(sight.final),
            "width": sight.final.shape[-1],
            "features": {name: statistics(tokens) for name, tokens in features.items()},
            "memory_mib": mib(list(features.values())),
        },
        "baseline": {
            "grid": list(grid),
            "tokens": len(baseline),
            "width": baseline.shape[-1],
            "features": {"visual tokens": statistics(baseline)},
            "memory_mib": mib([baseline]),
        },
        "same_token_count": len(sight.final) == len(baseline),
        "same_grid": sight.grid == tuple(grid),
        "width_ratio": round(sight.final.shape[-1] / baseline.shape[-1], 4),
        "bridge": {"parameters": count, "memory_mib": round(count * 4 / 2**20, 4)},
    }


def statistics(tokens: Tensor) -> dict[str, Any]:
    """Shape, mean, standard deviation, smallest and largest value, and mean length of a token [N, D]."""
    values = tokens.float()
    return {
        "shape": list(tokens.shape),
        "mean": round(float(values.mean()), 5),
        "std": round(float(values.std(correction=0)), 5),
        "min": round(float(values.min()), 5),
        "max": round(float(values.max()), 5),
        "token_norm": round(float(values.norm(dim=-1).mean()), 5),
    }


def mib(tensors: list[Tensor]) -> float:
    """MiB that tensors take."""
    return round(sum(tensor.numel() * tensor.element_size() for tensor in tensors) / 2**20, 4)


def extraction(shelf: Shelf, picture: Image, prompt: str | None = None) -> dict[str, Any]:
    """The cache report of one RGB picture by a shelf's vision model and editor, with the seconds of each stage.

    Raises ModelNotReady.
    """
    marks = [("", time.perf_counter())]

    def done(stage: str) -> None:
        marks.append((stage, time.perf_counter()))

    eyes = shelf.vision(language=prompt is not None)
    done("load vision model")
    editor = shelf.editor("edit")
    done("load editor")
    grid = sight_grid(picture.size, editor.areas, editor.processor.image_processor)
    sight = eyes.look(picture, grid=grid, prompt=prompt)
    done("look")
    eyes.look(picture, grid=grid, prompt=prompt)
    done("look again")
    visual = editor.reference([picture]).visual
    done("baseline")
    seconds = {name: round(end - marks[i][1], 4) for i, (name, end) in enumerate(marks[1:])}
    models = {role: shelf.identity(role) for role in ("vision", "edit")}
    return {"models": models, **cache_report(sight, visual.tokens, grid, form_for(editor, eyes)), "seconds": seconds}
