"""The CPU benchmark as a whole: the engine beside diffusers, its levers, caches, acceleration and cold loads."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from PIL.Image import Image

from darkroom.bench.engine import client_import_seconds, compare, first_job_seconds, missed, table
from darkroom.bench.gpu.cold_start import cold_start
from darkroom.bench.gpu.size import MEDIUM
from darkroom.bench.levers import accelerations, second_edit, single_levers, with_levers
from darkroom.bench.machine import commit, machine
from darkroom.models.editor import Editor
from darkroom.models.shelf import Shelf, read_card
from darkroom.models.specs import resolve
from darkroom.settings import Settings

ROUNDS = 7
LOADS = 3
LOAD_SECONDS = 240.0
LOAD_BYTES = 3 * 10**9


def whole(picture: Image, handler: Path) -> dict[str, Any]:
    """Everything that `make bench` measures without an endpoint, as JSON values."""
    # What a fresh process costs is measured before this one holds a model of its own.
    start = {"client_import": client_import_seconds(), "worker_first_job": first_job_seconds(picture, handler)}
    kept = Shelf(resolve(Settings(), read_card())).editor("edit")
    # Without the cache of encodings, which would spare the second and later rounds what diffusers does in each.
    editor = with_levers(kept, kept.levers)
    return {
        "commit": commit(),
        "machine": machine(),
        **compare(editor, [picture], ROUNDS),
        **start,
        **levers(editor, [picture], ROUNDS),
        "load": cold_start(MEDIUM, None, LOAD_SECONDS, LOAD_BYTES, LOADS),
    }


def levers(editor: Editor, pictures: list[Image], rounds: int) -> dict[str, Any]:
    """Levers, cache and acceleration of one engine."""
    return {
        "levers": single_levers(editor, pictures, rounds),
        "cache": second_edit(editor, pictures, rounds),
        "acceleration": accelerations(editor, pictures, rounds),
    }


def page(result: dict[str, Any]) -> str:
    """engine.md: the same as tables."""
    parts = [
        f"# Engine beside diffusers: commit {result['commit']}",
        f"{_machine(result['machine'])}. Made by `make bench`.",
        f"Seconds are medians of {result['rounds']} rounds in which all sides take turns; no encodings are kept.",
        table(result),
        *(f"Missed: {sentence}" for sentence in missed(result)),
        "## Levers, one edit (8 steps, CFG 4)",
        _levers(result["levers"]),
        "## The same edit once more",
        _cache(result["cache"]),
        f"## Acceleration, {result['acceleration']['none']['steps']} steps without CFG, seconds of denoising",
        _accelerations(result["acceleration"]),
        "## Loading",
        _load(result["load"]),
    ]
    return "\n\n".join(parts) + "\n"


def _machine(said: dict[str, Any]) -> str:
    packages = ", ".join(f"{name} {version}" for name, version in said["packages"].items())
    return f"{said['cpu']}, {said['cores']} cores, {said['memory_gib']} GiB, Python {said['python']}, {packages}"


def _levers(said: dict[str, Any]) -> str:
    head = "lever|kind|seconds|spread|ratio|largest difference|PSNR, dB|forwards|encoders|held, MB"
    return _rows(head, said, lambda name, row: [
        name, row["kind"], f"{row['median_seconds']:.3f}", f"{row['spread_seconds']:.3f}", f"{row['ratio']:.2f}",
        *_difference(row["equality"]), row["forwards"], row["encoder_calls"], f"{row['bytes_held'] / 1e6:.1f}",
    ], words=2)  # fmt: skip


def _cache(said: dict[str, Any]) -> str:
    rows = {name: said[name] for name in ("uncached", "cached")}
    told = _rows("|seconds|encoder calls", rows, lambda name, row: [
        name, f"{row['median_seconds']:.3f}", said["encoder_calls"][name],
    ])  # fmt: skip
    equal = "bit-equal" if said["equality"]["psnr_db"] is None else "not equal"
    return f"{told}\n\nRatio {said['ratio']:.2f}; pictures {equal}."


def _accelerations(said: dict[str, Any]) -> str:
    head = "acceleration|kind|steps computed|seconds|ratio|largest difference|PSNR, dB"
    return _rows(head, said, lambda name, row: [
        name, row["kind"], f"{row['forwards']} of {row['steps']}", f"{row['median_seconds']:.3f}",
        f"{row['ratio']:.2f}", *_difference(row["equality"]),
    ], words=2)  # fmt: skip


def _load(said: dict[str, Any]) -> str:
    rows = {name: said[name] for name in ("from_pretrained", "packed_fp8")}
    told = _rows("|seconds|spread|MB read|GB/s", rows, lambda name, row: [
        name, f"{row['seconds']:.3f}", f"{row['spread_seconds']:.3f}", f"{row['bytes'] / 1e6:.0f}",
        f"{row['gb_per_second']:.2f}",
    ])  # fmt: skip
    return (
        f"{told}\n\nRandom weights of {said['layers']} layers, files out of the page cache: packed FP8 "
        f"loads {said['ratio']:.2f} times as fast as `from_pretrained` in bf16."
    )


def _rows(head: str, said: dict[str, Any], cells: Callable[[str, dict[str, Any]], list[Any]], words: int = 1) -> str:
    """A table of one line for each of `said`. head: its columns, of which the first `words` are no numbers."""
    columns = head.split("|")
    lines = [
        f"| {' | '.join(columns)} |".replace("|  |", "| |"),
        "|" + "---|" * words + "---:|" * (len(columns) - words),
    ]
    return "\n".join(lines + [f"| {' | '.join(map(str, cells(name, row)))} |" for name, row in said.items()])


def _difference(said: dict[str, Any]) -> tuple[str, str]:
    psnr = "–" if said["psnr_db"] is None else f"{said['psnr_db']:.1f}"
    return f"{said['largest_difference_levels']} of 255", psnr
