"""What a sweep's pictures are worth: likeness to the person and to the prompt per strength, sharpness, diversity."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from darkroom.media import to_tensor
from darkroom.media.charts import Panel, line_charts
from darkroom.models.likeness import Rulers
from darkroom.models.perceptual import Perceptual
from darkroom.technique.injection import turned
from darkroom.technique.quality import diversity, sharpness
from darkroom.workers.injection.cells import BASE, CAPTION, OWN, RANDOM, WRONG, Cell

Row = dict[str, Any]
"""One cell's figures, as JSON values."""

MEASURES = ("similarity", "adherence", "sharpness", "diversity")
LABELS = {OWN: "the person", WRONG: "another person", RANDOM: "random residual"}


def measured(cell: Cell, picture: Image.Image, rulers: Rulers, person: Tensor, prompt: str) -> Row:
    """Likeness to the person and to the prompt, and sharpness."""
    return {
        "kind": cell.kind,
        "alpha": cell.alpha,
        "seed": cell.seed,
        "similarity": rulers.identity(picture, person),
        "adherence": rulers.adherence(picture, prompt),
        "sharpness": float(sharpness(to_tensor(picture)[None])),
    }


def summed_up(rows: Sequence[Row], pictures: Sequence[Image.Image], perceptual: Perceptual) -> list[Row]:
    """Means over the seeds, one row per kind and strength, with the diversity between seeds."""
    summary = []
    for kind, alpha in dict.fromkeys((row["kind"], row["alpha"]) for row in rows):
        chosen = [i for i, row in enumerate(rows) if (row["kind"], row["alpha"]) == (kind, alpha)]
        pixels = torch.stack([to_tensor(pictures[i]) for i in chosen])
        device = next(iter(perceptual.parameters())).device if isinstance(perceptual, torch.nn.Module) else "cpu"
        means = {name: mean(rows[i][name] for i in chosen) for name in MEASURES[:-1]}
        summary.append({"kind": kind, "alpha": alpha, **means,
                        "diversity": diversity(pixels.to(device), perceptual.distance)})  # fmt: skip
    return summary


def mean(values: Iterable[float | None]) -> float | None:
    """Of those that are there; None of none."""
    there = [value for value in values if value is not None]
    return sum(there) / len(there) if there else None


def best_alpha(summary: Sequence[Row], floor: float = 0.9) -> float | None:
    """The strength of the greatest similarity among those that keep `floor` of the base's adherence.

    Where that is not known (`unheld`) similarity alone decides.
    """
    base = next((row["adherence"] for row in summary if row["kind"] == BASE), None)
    kept = [
        row
        for row in summary
        if row["kind"] == OWN and (base is None or row["adherence"] is None or row["adherence"] >= floor * base)
    ]
    return max(kept, key=lambda row: row["similarity"])["alpha"] if kept else None


def unheld(summaries: Iterable[Sequence[Row]]) -> str | None:
    """Why adherence has no say in `best_alpha`; None where it has."""
    bases = [row for summary in summaries for row in summary if row["kind"] == BASE]
    if not bases:
        return "the prompt alone was not made; controls, or 0 among the alphas, would have it made"
    if all(row["adherence"] is None for row in bases):
        return "base_prompt names nothing, beside the person, that the ruler could find in a picture"
    return None


def plots(summaries: Sequence[Sequence[Row]], cosine: float) -> bytes:
    """PNG: each measure against α, means over people, with base and caption as level lines; and the turn predicted."""
    rows = [row for summary in summaries for row in summary]
    alphas = sorted({row["alpha"] for row in rows if row["kind"] != CAPTION})
    panels = [Panel(title, "α", curves) for name, title in TITLES.items() if (curves := _curves(rows, name, alphas))]
    fine = [alphas[0] + (alphas[-1] - alphas[0]) * i / 40 for i in range(41)] if len(alphas) > 1 else alphas
    angles = {"as measured": (fine, [turned(alpha, cosine) for alpha in fine]),
              "at a right angle": (fine, [turned(alpha) for alpha in fine])}  # fmt: skip
    return line_charts([*panels, Panel("turn of a slot after the text norm, degrees", "α", angles)])


TITLES = {
    "similarity": "similarity to the person",
    "adherence": "adherence to the prompt",
    "sharpness": "sharpness",
    "diversity": "LPIPS between seeds",
}


def _curves(
    rows: Sequence[Row], name: str, alphas: Sequence[float]
) -> Mapping[str, tuple[Sequence[float], Sequence[float]]]:
    base = mean(row[name] for row in rows if row["kind"] == BASE)
    curves: dict[str, tuple[Sequence[float], Sequence[float]]] = {}
    for kind, label in LABELS.items():
        points = {0.0: base} if base is not None else {}
        for alpha in alphas:
            value = mean(row[name] for row in rows if row["kind"] == kind and row["alpha"] == alpha)
            if value is not None:
                points[alpha] = value
        if any(row["kind"] == kind for row in rows) and len(points) > (base is not None):
            xs = sorted(points)
            curves[label] = (xs, [float(points[x] or 0.0) for x in xs])
    ends = [min(0.0, *alphas), max(0.0, *alphas)]
    for label, value in (("prompt alone", base), ("caption", mean(r[name] for r in rows if r["kind"] == CAPTION))):
        if value is not None:
            curves[label] = (ends, [value, value])
    return curves
