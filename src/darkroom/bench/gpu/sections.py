"""The sections in order of importance, with the seconds that each may be expected to take."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from darkroom.bench.gpu import parts
from darkroom.bench.gpu.clock import release
from darkroom.bench.gpu.cold_start import cold_start
from darkroom.bench.gpu.measures import Run, measure
from darkroom.bench.gpu.record import Record
from darkroom.bench.gpu.variants import BASELINE, Variant, alone, wholes

DISK_BYTES = 60 * 10**9
SETUP_SECONDS, COMPILE_SECONDS = 8.0, 60.0
COLD_SECONDS = 90.0
GUESSED_FORWARD_SECONDS = 0.4
"""Of the baseline on an H200, until it is measured."""


@dataclass(frozen=True)
class Section:
    """A name, what is run, and how long it is likely to take (seconds at full size). gpu_alone: not on a CPU."""

    name: str
    run: Callable[[], dict[str, Any]]
    seconds: Callable[[], float]
    gpu_alone: bool = False


def plan(run: Run, left: Callable[[], float], disk: Path | None) -> list[Section]:
    """What matters most comes first: the baseline, all levers together, loading; then each lever alone.

    left: seconds that remain when asked. disk: where the cold start writes; the temporary folder without one.
    """

    def of(label: str, variant: Variant) -> Section:
        seconds = partial(_expected, run, variant)
        return Section(label, lambda: measure(run, variant), seconds, gpu_alone=variant.levers.compile)

    def fixed(seconds: float) -> Callable[[], float]:
        return lambda: seconds

    def cold() -> dict[str, Any]:
        return cold_start(run.size, disk, min(COLD_SECONDS, left()), DISK_BYTES)

    return [
        Section("matrix rate", lambda: parts.matrix_rate(run), fixed(2.0)),
        Section("matrix rate, fp8", lambda: parts.fp8_rate(run), fixed(2.0), gpu_alone=True),
        of("diffusers", BASELINE),
        *(of(variant.name, variant) for variant in wholes(run.size.device)),
        Section("vae", lambda: parts.vae(run), fixed(6.0)),
        Section("guided step", lambda: parts.guided_step(run), fixed(8.0)),
        Section("cold start", cold, fixed(30.0)),
        *(of(variant.name, variant) for variant in alone(run.size.device)),
        Section("attention", lambda: parts.attention(run), lambda: SETUP_SECONDS + 50 * _forward_seconds(run)),
        of("diffusers, again", BASELINE),
    ]


def go(planned: list[Section], run: Run, record: Record) -> None:
    """Run the sections into the record, each on an empty device. On a CPU none is skipped for time."""
    on_cpu = run.device.type == "cpu"
    for section in planned:
        if on_cpu and section.gpu_alone:
            record.skip(section.name, "measured on a GPU alone")
            continue
        record.section(section.name, -math.inf if on_cpu else section.seconds(), section.run)
        release(run.device)


def _forward_seconds(run: Run) -> float:
    return run.seconds.get("forward", GUESSED_FORWARD_SECONDS)


def _expected(run: Run, variant: Variant) -> float:
    edits = run.size.edits if variant.whole else 1
    forwards = 4 + 3 + run.size.rounds + 4 + (4 + 16) * edits
    compiling = COMPILE_SECONDS if variant.levers.compile else 0.0
    return SETUP_SECONDS + compiling + 1.2 * forwards * _forward_seconds(run)
