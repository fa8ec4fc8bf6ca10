"""A TTLG study as tables, bars and plots."""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from darkroom.media import labelled_grid

Rows = Sequence[Mapping[str, Any]]

RULERS = ("edge_error", "edge_f1", "lpips_to_true", "gram_to_true", "gram_to_init", "warp_error", "motion", "psnr")

EDGE_SHARE, FRAMES_SHARE, GRAM_RATIO, WARP_RATIO, LEAST_MOTION = 0.8, 0.9, 0.95, 0.9, 0.8


def summary(rows: Rows, variant: str) -> dict[str, float]:
    """Means over a variant's frames, `motion` as a share of the true clips', and seconds per frame where it ran."""
    own = [row for row in rows if row["variant"] == variant]
    means = {ruler: statistics.fmean(row[ruler] for row in own) for ruler in RULERS}
    means["motion"] /= max(statistics.fmean(row["true_motion"] for row in own), 1e-12)
    for name in ("seconds", "guidance_seconds"):
        if name in own[0]:
            means[name] = statistics.fmean(row[name] for row in own)
    return means


def bars(rows: Rows, variant: str) -> list[dict[str, Any]]:
    """What `variant` must reach beside "off", over the floor that the VAE sets: each bar with its value and verdict."""
    on, off, floor = (summary(rows, name) for name in (variant, "off", "floor"))
    found = {
        "edge error over the floor, of off's": (_over(on, off, floor, "edge_error"), "≤", EDGE_SHARE),
        "frames whose edge error is no worse": (_no_worse(rows, variant, "edge_error"), "≥", FRAMES_SHARE),
        "edge F1, gain": (on["edge_f1"] - off["edge_f1"], ">", 0.0),
        "LPIPS to the true frame, of off's": (_ratio(on, off, "lpips_to_true"), "≤", 1.0),
        "Gram distance to the init frame, of off's": (_ratio(on, off, "gram_to_init"), "≤", GRAM_RATIO),
        "warp error, of off's": (_ratio(on, off, "warp_error"), "≤", WARP_RATIO),
        "motion, of the true clips'": (on["motion"], "≥", LEAST_MOTION),
    }
    return [
        {"bar": name, "value": value, "must_be": f"{sign} {limit:g}", "holds": _holds(value, sign, limit)}
        for name, (value, sign, limit) in found.items()
    ]


def table(rows: Rows, names: Sequence[str]) -> str:
    """Every variant's means as a Markdown table."""
    head = (
        "| variant | edge error | edge F1 | LPIPS to true | Gram to true | Gram to init | warp error | motion | PSNR |"
    )
    lines = [head + " s/frame | of it guidance |", "|---" * 11 + "|"]
    for name in ("floor", *names):
        means = summary(rows, name)
        cells = [f"{means['edge_error']:.4f}", f"{means['edge_f1']:.3f}", f"{means['lpips_to_true']:.4f}"]
        cells += [f"{means['gram_to_true']:.3g}", f"{means['gram_to_init']:.3g}", f"{means['warp_error']:.4f}"]
        cells += [f"{means['motion']:.2f}", f"{means['psnr']:.2f}"]
        cells += [f"{means[key]:.2f}" if key in means else "–" for key in ("seconds", "guidance_seconds")]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def bars_table(found: Sequence[Mapping[str, Any]]) -> str:
    """The bars as a Markdown table."""
    lines = ["| bar | must be | is | holds |", "|---|---|---|---|"]
    for bar in found:
        lines.append(
            f"| {bar['bar']} | {bar['must_be']} | {bar['value']:.3f} | {'yes' if bar['holds'] else '**no**'} |"
        )
    return "\n".join(lines)


def write(result: Mapping[str, Any], rows: Rows, names: Sequence[str], out: Path) -> list[Path]:
    """ttlg.json, ttlg.md, ttlg.png, steps.png and, where frames were kept, frames.png in `out`."""
    out.mkdir(parents=True, exist_ok=True)
    text = [f"# TTLG study: commit {result['commit']}", "", str(result["setting"]), "", table(rows, names)]
    for name, found in result["bars"].items():
        text += ["", f"## Bars: {name}", "", bars_table(found)]
    (out / "ttlg.json").write_text(json.dumps({**result, "rows": list(rows)}, indent=1) + "\n", "utf-8")
    (out / "ttlg.md").write_text("\n".join(text) + "\n", "utf-8")
    files = [out / "ttlg.json", out / "ttlg.md", _plot(rows, names, out / "ttlg.png"), _steps(rows, out / "steps.png")]
    sheet = contact_sheet(out / "frames", names, out / "frames.png")
    return files + ([sheet] if sheet else [])


def contact_sheet(folder: Path, names: Sequence[str], path: Path) -> Path | None:
    """The first clip: its true frames, then a row per variant, in the table's order; None where none were kept."""
    files = {name: sorted((folder / name.replace(" ", "_")).glob("*.png")) for name in ("true", *names)}
    kept = {name: found for name, found in files.items() if found}
    if not kept:
        return None
    rows = [[_opened(file) for file in found] for found in kept.values()]
    columns = [f"frame {number + 1}" for number in range(max(map(len, rows)))]
    labelled_grid(rows, list(kept), columns).save(path)
    return path


def _opened(file: Path) -> Image.Image:
    with Image.open(file) as image:
        return image.convert("RGB")


def _over(on: Mapping[str, float], off: Mapping[str, float], floor: Mapping[str, float], ruler: str) -> float:
    return (on[ruler] - floor[ruler]) / max(off[ruler] - floor[ruler], 1e-12)


def _ratio(on: Mapping[str, float], off: Mapping[str, float], ruler: str) -> float:
    return on[ruler] / max(off[ruler], 1e-12)


def _no_worse(rows: Rows, variant: str, ruler: str) -> float:
    """The share of frames on which `variant` is no worse than "off"."""
    values = {(row["variant"], row["seed"], row["frame"]): row[ruler] for row in rows}
    frames = [key[1:] for key in values if key[0] == variant]
    return statistics.fmean(values[variant, *frame] <= values["off", *frame] for frame in frames)


def _holds(value: float, sign: str, limit: float) -> bool:
    return {"≤": value <= limit, "≥": value >= limit, ">": value > limit}[sign]


def _plot(rows: Rows, names: Sequence[str], path: Path) -> Path:
    """Each ruler by variant, the floor as a line."""
    shown = ("edge_error", "edge_f1", "lpips_to_true", "gram_to_init", "warp_error", "motion")
    means, floor = {name: summary(rows, name) for name in names}, summary(rows, "floor")
    figure, axes = _figure(2, 3, (13, 2.2 + 0.36 * len(names)))
    for number, (axis, ruler) in enumerate(zip(axes, shown, strict=True)):
        axis.barh(list(names), [means[name][ruler] for name in names], color="#3f5f9e")
        axis.axvline(floor[ruler], color="#e07b39", linestyle="--", linewidth=1, label="VAE round trip")
        axis.set_title(ruler.replace("_", " "), fontsize=10)
        axis.invert_yaxis()
        axis.tick_params(labelsize=7, labelleft=number % 3 == 0)
    axes[0].legend(fontsize=7)
    return _saved(figure, path)


def _steps(rows: Rows, path: Path) -> Path:
    """Losses within a frame, step by step, of the variant that guides with all."""
    figure, axes = _figure(1, 3, (13, 3.4))
    for axis, loss in zip(axes, ("edge", "gram", "temporal"), strict=True):
        for row in rows:
            if row["variant"] == "all" and row["seed"] == 0:
                curve = [(step["sigma"], step["losses"][loss]) for step in row["steps"] if loss in step["losses"]]
                if curve:
                    axis.plot(*zip(*curve, strict=True), marker="o", markersize=3, label=f"frame {row['frame']}")
        axis.set_title(f"{loss} loss before each guided step", fontsize=10)
        axis.set_xlabel("sigma")
        axis.invert_xaxis()
    if axes[0].lines:
        axes[0].legend(fontsize=7)
    return _saved(figure, path)


def _figure(rows: int, columns: int, size: tuple[float, float]) -> tuple[Any, list[Any]]:
    # A figure of its own, without pyplot: no global state, no display.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, dpi=130)
    FigureCanvasAgg(figure)
    return figure, [axis for row in figure.subplots(rows, columns, squeeze=False) for axis in row]


def _saved(figure: Any, path: Path) -> Path:
    figure.tight_layout()
    figure.savefig(path)
    return path
