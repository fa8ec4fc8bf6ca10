"""`darkroom bench ttlg`: what guidance brings to video, on clips whose truth is known."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from darkroom.cli_options import told


def ttlg(
    seeds: Annotated[int, typer.Option(min=1, help="Clips; each seed draws one and its noise.")] = 5,
    frames: Annotated[int, typer.Option(min=1, help="Frames made of each clip, after its first.")] = 6,
    steps: Annotated[int, typer.Option(min=2, help="Denoising steps of each frame.")] = 8,
    true_cfg_scale: Annotated[float, typer.Option(min=1.0, help="1 is no classifier-free guidance.")] = 1.0,
    quick: Annotated[
        bool, typer.Option("--quick", help="One knob at a time around the defaults, not every combination.")
    ] = False,
    only: Annotated[list[str] | None, typer.Option(help="Only this variant, beside off; repeatable.")] = None,
    people: Annotated[bool, typer.Option("--people", help="Clips with a person, not of shapes alone.")] = False,
    weights: Annotated[
        Path | None, typer.Option(help="A family's folder; the profile's video model by default.", show_default=False)
    ] = None,
    out: Annotated[
        Path, typer.Option("--out", "-o", help="Tables, plots, frames, and the cells of a run to go on.")
    ] = Path("bench/results/ttlg"),
) -> None:
    """Compare no guidance, the published original's and ours, each loss alone and all, over the knobs of the ablation.

    darkroom bench ttlg --quick --seeds 5 --frames 6
    """
    with told():
        _run(seeds, frames, steps, true_cfg_scale, quick, only or [], people, weights, out)


def _run(
    seeds: int,
    frames: int,
    steps: int,
    true_cfg_scale: float,
    quick: bool,
    only: list[str],
    people: bool,
    weights: Path | None,
    out: Path,
) -> None:
    from darkroom.bench.machine import commit, machine
    from darkroom.bench.ttlg import Plan, study, variants
    from darkroom.bench.ttlg_report import bars, bars_table, table, write
    from darkroom.models.optical_flow import load_optical_flow
    from darkroom.models.perceptual import load_perceptual

    chosen = [variant for variant in variants(quick) if not only or variant.name in {"off", *only}]
    missing = set(only) - {variant.name for variant in chosen}
    if missing:
        raise ValueError(
            f"there is no variant {sorted(missing)[0]!r}; there are "
            + ", ".join(variant.name for variant in variants(quick))
        )
    editor = _editor(weights)
    perceptual, optical_flow = load_perceptual(editor.device), load_optical_flow(editor.device)
    plan = Plan(seeds, frames, steps, true_cfg_scale, people=people, variants=tuple(chosen))
    rows = study(plan, editor, perceptual, optical_flow, out, lambda line: typer.secho(line, err=True, dim=True))
    names = [variant.name for variant in chosen]
    guided = [name for name in names if name != "off"]
    setting = (
        f"{seeds} clips of {frames} frames{' with people' if people else ''}, {steps} steps, "
        f"true CFG {true_cfg_scale:g}; {perceptual.name}; flow by {optical_flow.name}"
    )
    result: dict[str, Any] = {
        "commit": commit(),
        "machine": machine(),
        "setting": setting,
        "bars": {name: bars(rows, name) for name in guided},
    }
    files = write(result, rows, names, out)
    typer.echo(table(rows, names))
    for name in [name for name in guided if name == "all"] or guided[:1]:
        typer.echo(f"\n{name}:\n{bars_table(result['bars'][name])}")
    for file in files:
        typer.echo(str(file))


def _editor(weights: Path | None) -> Any:
    """The family in `weights`, or the profile's video model, else its edit model."""
    from dataclasses import replace

    from darkroom.models.shelf import Shelf, read_card
    from darkroom.models.specs import resolve
    from darkroom.pocket.folders import is_family
    from darkroom.settings import Settings

    profile = resolve(Settings(), read_card())
    role = "video" if "video" in profile.models else "edit"
    if weights is not None:
        if not is_family(weights):
            raise FileNotFoundError(f"there is no family in {weights}")
        profile = replace(profile, models={role: replace(profile.models[role], repo=str(weights), revision=None)})
    return Shelf(profile).editor(role)
