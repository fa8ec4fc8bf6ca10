"""docs/performance.md's tables, made of the result files: no figure stands there that no run produced.

`python -m darkroom.bench.page` writes them anew between their marks.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from darkroom.bench.gpu.report import markdown as gpu_page

ROOT = Path(__file__).resolve().parents[3]
PAGE = ROOT / "docs" / "performance.md"
CPU, GPU = (ROOT / "bench" / "results" / name for name in ("cpu/engine.json", "gpu/gpu.json"))
BEGIN, END = "<!-- {}: made by python -m darkroom.bench.page -->", "<!-- end of {} -->"
NOTHING = "not measured"

Result = dict[str, Any]
Cell = Callable[[Result], str]


@dataclass(frozen=True)
class Row:
    """One lever: what it is, how its result may differ, what it promises on a GPU, and where its figures are."""

    name: str
    kind: str
    promise: str
    cpu: Cell
    gpu: Cell


def _lever(name: str) -> Cell:
    return lambda said: f"{said['levers'][name]['ratio']:.2f} of the seconds, {_levels(said['levers'][name])}"


def _levels(said: Result) -> str:
    apart = said["equality"]["largest_difference_levels"]
    return "bit-equal" if apart == 0 else f"at most {apart} of 255 apart"


def _folded(said: Result) -> str:
    held = {name: said["levers"][name]["bytes_held"] for name in ("none", "fold")}
    weights = f"{held['none'] / 1e6:.1f} → {held['fold'] / 1e6:.1f} MB"
    return f"{_lever('fold')(said)}; weights on a device, by their shapes, {weights}"


def _cached(said: Result) -> str:
    calls = said["cache"]["encoder_calls"]
    return (
        f"{said['cache']['ratio']:.2f} of the seconds on the second edit, {_levels(said['cache'])}; encoder calls "
        f"{calls['uncached']} → {calls['cached']}"
    )


def _accelerated(said: Result) -> str:
    told = [
        f"`{name}` {row['ratio']:.2f} of the seconds at {row['equality']['psnr_db']:.1f} dB"
        for name, row in said["acceleration"].items()
        if name != "none"
    ]
    return "; ".join(told)


def _loaded(said: Result) -> str:
    sides = [said["load"][name]["bytes"] / 1e6 for name in ("from_pretrained", "packed_fp8")]
    return f"{said['load']['ratio']:.2f} times as fast; {sides[0]:.0f} → {sides[1]:.0f} MB"


def _whole(said: Result) -> str:
    return "; ".join(f"{case['case']}: {case['ratio']:.2f} (bar {case['bar']})" for case in said["cases"])


def _times(name: str) -> Cell:
    """A variant's forward on a GPU beside diffusers'."""
    return lambda said: f"{said['sections'][name]['ratio']['forward']:.2f} times diffusers' forward"


def _edits(*names: str) -> Cell:
    def told(said: Result) -> str:
        found = {name: said["sections"][name] for name in names}
        return "; ".join(
            f"{name}: 8 steps CFG {row['ratio']['edit_8_cfg']:.2f}×, 4 steps {row['edit_4']['median_seconds']:.2f} s"
            for name, row in found.items()
        )

    return told


def _presets(said: Result) -> str:
    cases = {case["case"]: case["median_seconds"]["engine"] for case in said["cases"]}
    eight, four = (next(s for name, s in cases.items() if start in name) for start in ("one edit, 8", "one edit, 4"))
    return f"4 steps without CFG {four / eight:.2f} of the seconds of 8 with CFG"


def _gpu_presets(said: Result) -> str:
    seconds = [said["sections"]["diffusers"][name]["median_seconds"] for name in ("edit_4", "edit_8_cfg")]
    return f"4 steps without CFG {seconds[0] / seconds[1]:.2f} of the seconds of 8 with CFG (diffusers)"


def _gpu_fold(said: Result) -> str:
    held = {name: sum(said["sections"][name]["weights_gib"].values()) for name in ("diffusers", "lever: fold")}
    return f"{_times('lever: fold')(said)}; weights {held['diffusers']:.1f} → {held['lever: fold']:.1f} GiB"


def _gpu_vae(said: Result) -> str:
    ratio = said["sections"]["vae"]["ratio"]
    return f"encode {ratio['encode']:.2f}×, decode {ratio['decode']:.2f}×"


def _gpu_load(said: Result) -> str:
    cold = said["sections"]["cold start"]
    return f"{cold['ratio']:.2f} times as fast ({cold['layers']} layers)"


def _gpu_guided(said: Result) -> str:
    step = said["sections"]["guided step"]
    return f"{step['guided']['median_seconds']:.2f} s, {step['ratio']:.2f}×"


def _never(_: Result) -> str:
    raise KeyError("there is no such measurement")


ROWS = (
    Row("presets without CFG", "lossy by the LoRA, as published", "2× at 8 steps, 4× at 4", _presets, _gpu_presets),
    Row("folded modulation", "exact", "transformer 40.9 → 27.3 GB", _folded, _gpu_fold),
    Row("lean forward", "rounding", "a part of 1.3–1.6×", _lever("lean"), _times("lever: lean")),
    Row("compiled blocks", "rounding", "a part of 1.3–1.6×", _never, _times("lever: compile (with lean)")),
    Row("scaled FP8", "lossy, gated", "1.3–1.4× warm", _never, _times("lever: fp8")),
    Row("packed artifact, streamed", "as its precision", "2.7× fewer bytes, 2–4× faster", _loaded, _gpu_load),
    Row("VAE as 2-D convolutions", "rounding", "1.7×", _lever("conv2d"), _gpu_vae),
    Row("checkpointed guided decode", "rounding", "35 → 14 TFLOP", _never, _gpu_guided),
    Row("encodings kept by content", "exact", "up to 0.3 s of 1.5 s", _cached, _never),
    Row("acceleration", "lossy, opt-in", "1.1–1.8×", _accelerated, _never),
    Row("INT8 W8A8 on A100", "lossy, gated", "≤ 1.5×", _never, _times("lever: int8")),
    Row("all that a worker pulls", "rounding", "1.5× in bf16, 2.2× in FP8", _whole, _edits("all, bf16", "all, fp8")),
)


def lever_table(cpu: Result | None, gpu: Result | None) -> str:
    """All levers; a cell says "not measured" until a run has filled it."""
    lines = ["| lever | kind | promise on a GPU | CPU, pocket model | GPU, full size |", "|---|---|---|---|---|"]
    for row in ROWS:
        cells = (row.name, row.kind, row.promise, _cell(row.cpu, cpu), _cell(row.gpu, gpu))
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def written(page: str, cpu: Result | None, gpu: Result | None) -> str:
    """The page with its generated parts as the results say."""
    whole = gpu_page(gpu).replace("# ", "## ", 1).rstrip() if gpu else f"GPU: {NOTHING}."
    parts = {"levers": lever_table(cpu, gpu), "gpu": whole}
    for name, text in parts.items():
        begin, end = BEGIN.format(name), END.format(name)
        before, _, rest = page.partition(begin)
        _, found, after = rest.partition(end)
        if not found:
            raise ValueError(f"the page has no part between {begin} and {end}")
        page = f"{before}{begin}\n{text}\n{end}{after}"
    return page


def read(path: Path) -> Result | None:
    """A result file, None where no run has written it."""
    if not path.is_file():
        return None
    found: Result = json.loads(path.read_text("utf-8"))
    return found


def _cell(cell: Cell, result: Result | None) -> str:
    if result is None:
        return NOTHING
    try:
        return cell(result)
    # The section was skipped or failed, or an older run did not know it.
    except (KeyError, TypeError, StopIteration):
        return NOTHING


if __name__ == "__main__":
    PAGE.write_text(written(PAGE.read_text("utf-8"), read(CPU), read(GPU)), "utf-8")
