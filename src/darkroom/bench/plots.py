"""A report as pictures: where the time of a job goes, and how it varies from job to job."""

from __future__ import annotations

from pathlib import Path
from typing import Any

COLOURS = {
    "queue": "#b8bcc4", "load": "#e07b39", "fetch": "#7aa6c2", "encode": "#5b8c5a", "denoise": "#3f5f9e",
    "decode": "#8a6fb0", "upload": "#c2a14d", "rest of the worker": "#d9d9d9",
    "wait for a worker": "#f1c9c9", "platform and client": "#dfd3e6",
}


def write_plots(report: dict[str, Any], folder: Path) -> list[Path]:
    """phases.png and latency.png in `folder`; a part without jobs is left out, and none without any."""
    kinds = [kind for kind in ("cold", "warm") if report[kind]["phases"]]
    if not kinds:
        return []
    folder.mkdir(parents=True, exist_ok=True)
    return [_phases(report, kinds, folder / "phases.png"), _latency(report, kinds, folder / "latency.png")]


def shares(distributions: dict[str, dict[str, float]]) -> dict[str, float]:
    """Mean milliseconds that add up to the mean wall clock: the worker's phases, its rest, and everything around.

    The wait for a worker is the platform's own delay: a boot for a cold job, the queue for a warm one.
    """
    mean = {name.removesuffix("_ms"): values["mean"] for name, values in distributions.items()}
    phases_ms = {name: mean[name] for name in COLOURS if name in mean}
    total = mean.get("total", sum(phases_ms.values()))
    around = max(0.0, mean["wall"] - total)
    wait = min(around, mean.get("platform_delay", 0.0))
    rest = max(0.0, total - sum(phases_ms.values()))
    return {"wait for a worker": wait, **phases_ms, "rest of the worker": rest, "platform and client": around - wait}


def _phases(report: dict[str, Any], kinds: list[str], path: Path) -> Path:
    figure, axes = _figure(len(kinds), 1, (10, 1.4 + 1.1 * len(kinds)))
    for axis, kind in zip(axes, kinds, strict=True):
        left = 0.0
        parts = shares(report[kind]["phases"])
        for name, value in parts.items():
            axis.barh([0], [value], left=left, color=COLOURS[name], edgecolor="white", linewidth=0.6, label=name)
            if value > 0.07 * sum(parts.values()):
                dark = name in ("denoise", "encode", "decode")
                axis.text(left + value / 2, 0, f"{value:.0f}", ha="center", va="center", fontsize=9,
                          color="white" if dark else "black")
            left += value
        axis.set_yticks([0], [kind])
        axis.set_xlim(0, left * 1.01 or 1)
        _plain(axis)
    axes[-1].set_xlabel("mean milliseconds per job")
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, ncols=6, loc="upper center", frameon=False, fontsize=8)
    figure.tight_layout(rect=(0, 0, 1, 1 - 0.55 / figure.get_figheight()))
    return _saved(figure, path)


def _latency(report: dict[str, Any], kinds: list[str], path: Path) -> Path:
    figure, axes = _figure(1, len(kinds), (4.5 * len(kinds), 3.4))
    for axis, kind in zip(axes, kinds, strict=True):
        walls = sorted(s["wall_ms"] for s in report["samples"] if s["kind"] == kind and s["error"] is None)
        shares_below = [(number + 0.5) / len(walls) for number in range(len(walls))]
        axis.plot(walls, shares_below, marker="o", markersize=3.5, linewidth=1, color="#3f5f9e")
        wall = report[kind]["phases"]["wall_ms"]
        for name in ("p50", "p95"):
            axis.axvline(wall[name], color="#e07b39", linewidth=1, linestyle="--")
        axis.set_title(f"{kind}, {len(walls)} jobs: p50 {wall['p50']:.0f} ms, p95 {wall['p95']:.0f} ms", fontsize=10)
        axis.set_xlabel("wall clock of the client, milliseconds")
        axis.locator_params(axis="x", nbins=6)
        axis.set_ylim(0, 1)
        axis.margins(x=0.15)
        _plain(axis)
    axes[0].set_ylabel("share of jobs below")
    figure.tight_layout()
    return _saved(figure, path)


def _figure(rows: int, columns: int, size: tuple[float, float]) -> tuple[Any, list[Any]]:
    # Figures of their own, without pyplot: no global state, no display, the Agg canvas by default.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, dpi=150)
    FigureCanvasAgg(figure)
    grid = figure.subplots(rows, columns, squeeze=False)
    return figure, [axis for row in grid for axis in row]


def _plain(axis: Any) -> None:
    for side in ("top", "right"):
        axis.spines[side].set_visible(False)


def _saved(figure: Any, path: Path) -> Path:
    figure.savefig(path)
    return path
