"""Samples -> percentiles and dollars, as JSON and as Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np

from darkroom.bench.latency import Sample, Warm
from darkroom.bench.prices import Price

FORMAT = 1
WORKER_PHASES = ("queue_ms", "load_ms", "fetch_ms", "encode_ms", "denoise_ms", "decode_ms", "upload_ms", "total_ms")
"""In the order in which a job goes through them; phases that a newer worker adds follow."""


@dataclass(frozen=True)
class Setup:
    """What was asked for and where it ran; goes into the report as it is."""

    endpoint: str
    commit: str | None
    machine: dict[str, Any]
    settings: dict[str, Any]


def summarise(setup: Setup, cold: Sequence[Sample], warm: Warm, cards: list[Price]) -> dict[str, Any]:
    """The whole report as JSON values."""
    good_warm = [sample for sample in warm.samples if sample.error is None]
    gpus = sorted({sample.gpu for sample in [*cold, *warm.samples] if sample.gpu})
    return {
        "darkroom_bench": FORMAT,
        "kind": "endpoint",
        "created_at": datetime.now(UTC).isoformat(timespec="seconds"),
        **asdict(setup),
        "gpu": gpus,
        "cold": part(cold),
        "warm": {**part(warm.samples), **_throughput(good_warm, warm.seconds)},
        "usd": [_dollars(price, cold, good_warm) for price in cards],
        "warnings": _warnings(cold, warm.samples),
        "samples": [asdict(sample) for sample in [*cold, *warm.samples]],
    }


def part(samples: Sequence[Sample]) -> dict[str, Any]:
    """Counts, and each phase's distribution over the jobs that succeeded."""
    good = [sample for sample in samples if sample.error is None]
    phases = {name: spread(values) for name, values in phase_values(good).items() if values}
    return {"jobs": len(samples), "failed": len(samples) - len(good), "phases": phases}


def phase_values(samples: Sequence[Sample]) -> dict[str, list[float]]:
    """Milliseconds by phase: the worker's own, the platform's, the client's wall clock last."""
    names = [name for name in WORKER_PHASES if any(name in sample.timings for sample in samples)]
    more = sorted({name for sample in samples for name in sample.timings} - set(WORKER_PHASES))
    values = {name: [s.timings[name] for s in samples if name in s.timings] for name in [*names, *more]}
    values["platform_delay_ms"] = [s.delay_ms for s in samples if s.delay_ms is not None]
    values["platform_execution_ms"] = [s.execution_ms for s in samples if s.execution_ms is not None]
    values["wall_ms"] = [s.wall_ms for s in samples]
    return values


def spread(values: Sequence[float]) -> dict[str, float]:
    """Percentiles (linear interpolation), extremes, mean, and the distance of the quartiles."""
    p25, p50, p75, p95, p99 = (float(q) for q in np.percentile(values, [25, 50, 75, 95, 99]))
    return {
        "n": len(values), "p50": p50, "p95": p95, "p99": p99, "iqr": p75 - p25,
        "min": min(values), "max": max(values), "mean": float(np.mean(values)),
    }


def _throughput(good: Sequence[Sample], seconds: float) -> dict[str, Any]:
    images = sum(sample.images for sample in good)
    return {"seconds": seconds, "images": images, "images_per_minute": 60 * images / seconds if seconds else 0.0}


def _dollars(price: Price, cold: Sequence[Sample], warm: Sequence[Sample]) -> dict[str, Any]:
    """RunPod bills a worker from its start: a warm job costs its execution, a lone cold one its whole wall clock."""
    warm_images = sum(sample.images for sample in warm)
    warm_seconds = sum(_execution_seconds(sample) for sample in warm)
    lone = [sample.wall_ms / 1000 for sample in cold if sample.error is None]
    per_image = price.usd_per_second * warm_seconds / warm_images if warm_images else None
    return {
        "card": price.card,
        "usd_per_second": price.usd_per_second,
        "assumed_card": price.assumed,
        "per_image": per_image,
        "per_1000_images": None if per_image is None else 1000 * per_image,
        "per_lone_cold_job": price.usd_per_second * float(np.median(lone)) if lone else None,
    }


def _execution_seconds(sample: Sample) -> float:
    milliseconds = sample.execution_ms if sample.execution_ms is not None else sample.timings.get("total_ms")
    return (sample.wall_ms if milliseconds is None else milliseconds) / 1000


def _warnings(cold: Sequence[Sample], warm: Sequence[Sample]) -> list[str]:
    warnings = []
    if mild := sum(not sample.was_cold for sample in cold if sample.error is None):
        warnings.append(f"{mild} of {len(cold)} cold jobs met a worker that says it was warm")
    if chilly := sum(sample.was_cold for sample in warm):
        warnings.append(f"{chilly} of {len(warm)} warm jobs met a new worker; they are in the warm figures")
    if failed := sum(sample.error is not None for sample in [*cold, *warm]):
        codes = sorted({sample.error for sample in [*cold, *warm] if sample.error})
        warnings.append(f"{failed} jobs failed ({', '.join(codes)}) and are left out")
    return warnings


def markdown(report: dict[str, Any]) -> str:
    """The report as a page with tables; milliseconds unless a unit is named."""
    machine = report["machine"]
    gpus = ", ".join(report["gpu"]) or "none named"
    lines = [
        f"# Endpoint latency: {report['endpoint']}",
        "",
        f"{report['created_at']} · commit {report['commit'] or 'unknown'} · worker's card: {gpus}  ",
        (f"Client on {machine['cpu']}, {machine['cores']} cores, {machine['memory_gib']} GiB, "
        f"Python {machine['python']}  "),
        "Settings: " + ", ".join(f"{name} {value}" for name, value in report["settings"].items()),
        "",
    ]
    for kind in ("cold", "warm"):
        lines += _table(kind, report[kind])
    warm = report["warm"]
    lines += [(f"Throughput: {warm['images_per_minute']:.1f} images per minute "
              f"({warm['images']} images in {warm['seconds']:.1f} s)."), ""]
    lines += _price_table(report["usd"])
    lines += [f"- {warning}" for warning in report["warnings"]]
    return "\n".join(lines).rstrip() + "\n"


def _table(kind: str, part: dict[str, Any]) -> list[str]:
    if not part["phases"]:
        return []
    head = f"## {kind.capitalize()}: {part['jobs']} jobs" + (f", {part['failed']} failed" if part["failed"] else "")
    rows = [f"| {name.removesuffix('_ms')} | " + " | ".join(f"{p[k]:.1f}" for k in _COLUMNS) + " |"
            for name, p in part["phases"].items()]
    columns = "| phase (ms) | " + " | ".join(_COLUMNS) + " |"
    return [head, "", columns, "|---|" + "---:|" * len(_COLUMNS), *rows, ""]


_COLUMNS = ("p50", "p95", "p99", "iqr", "min", "max")


def _price_table(rows: list[dict[str, Any]]) -> list[str]:
    if not rows:
        return ["Dollars: no price is known for this worker; name a card with --card.", ""]
    lines = ["| card | $ per second | $ per image, warm | $ per 1,000 | $ per lone cold job |",
             "|---|---:|---:|---:|---:|"]
    for row in rows:
        name = row["card"] + (" (price only: not measured on it)" if row["assumed_card"] else "")
        cells = [_usd(row[key]) for key in ("per_image", "per_1000_images", "per_lone_cold_job")]
        lines.append(f"| {name} | {row['usd_per_second']:.5f} | " + " | ".join(cells) + " |")
    return [*lines, ""]


def _usd(value: float | None) -> str:
    return "–" if value is None else f"{value:.3g}"
