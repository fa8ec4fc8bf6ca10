"""Modulation tables made ahead: the presets' schedules at the usual shapes of picture; no job waits for them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch

from darkroom.models.editor import TOKEN_PIXELS, fit
from darkroom.models.folding import Folding, from_reader
from darkroom.models.packing.loading import mapped, modulation_fingerprint
from darkroom.models.packing.manifest import File, Progress
from darkroom.models.parts import skeleton
from darkroom.models.placement import set_parameter, shapes
from darkroom.models.specs import ModelSpec
from darkroom.technique.schedule import Schedule

CACHE = "cache"
"""A folder as DARKROOM_CACHE_DIR names one; workers without that setting keep theirs here."""
TABLES = "cache/modulation"
ASPECTS = (1.0, 5 / 4, 4 / 3, 3 / 2, 16 / 9)
"""Of width to height; upright pictures have as many tokens. Each costs a row of 4.4 MB per step of every preset that
keeps the model's own schedule: 0.2 GB."""


def schedules(spec: ModelSpec, schedule: Schedule, dtype: torch.dtype) -> list[tuple[float, ...]]:
    """The timesteps of every preset at every aspect, rounded as the editor rounds them; each schedule once."""
    found: dict[tuple[float, ...], None] = {}
    for preset in spec.presets.values():
        own = schedule if preset.shift is None else schedule.fixed(preset.shift)
        for aspect in ASPECTS:
            width, height = fit(spec.areas.vae, aspect)
            sigmas = own.sigmas(preset.steps, (width // TOKEN_PIXELS) * (height // TOKEN_PIXELS))[:-1]
            found[tuple(dict.fromkeys(((sigmas * 1000).to(dtype) / 1000).tolist()))] = None
    return list(found)


def table_bytes(rows: int, modulation_shapes: list[tuple[int, ...]], dtype: torch.dtype) -> int:
    """About what tables of so many rows take: each bias of a modulation layer is as long as its output."""
    return (rows + 1) * sum(shape[0] for shape in modulation_shapes if len(shape) == 1) * dtype.itemsize


def write_tables(
    folder: Path, sections: dict[str, list[File]], wanted: list[tuple[float, ...]], dtype: torch.dtype, report: Progress
) -> Iterator[None]:
    """Compute the tables from the modulation that lies packed in `folder`, block by block, and keep them there.

    Yields after each; one that lies there already is not computed again.
    """
    transformer = skeleton(folder / "transformer", "transformer")
    read = mapped(folder, sections["transformer"])
    for name, _ in shapes(transformer):
        if not name.startswith("transformer_blocks."):
            set_parameter(transformer, name, read(name).clone())
    read_modulation = mapped(folder, sections["modulation"])
    weights = from_reader(transformer, read_modulation, modulation_fingerprint(sections))
    for number, timesteps in enumerate(wanted):
        report(TABLES, number, len(wanted))
        # One of its own each: it would take a timestep that two schedules share from the other's table.
        folding = Folding(transformer, weights, folder / TABLES)
        folding.announce(timesteps)
        folding.at(timesteps[0], dtype)
        yield
