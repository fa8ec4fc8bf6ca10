"""The study of guidance on a random family: laws of the measuring, not of the model."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from darkroom.bench.ttlg import Ours, Plan, Variant, study, variants
from darkroom.bench.ttlg_original import Original
from darkroom.bench.ttlg_report import bars, bars_table, contact_sheet, summary, table, write
from darkroom.bench.ttlg_work import frame_work
from darkroom.cli import app
from darkroom.models.areas import Areas
from darkroom.models.editor import Editor
from darkroom.models.optical_flow import Dis
from darkroom.models.perceptual import load_pocket
from darkroom.models.presets import POCKET
from darkroom.models.shelf import Shelf
from darkroom.models.specs import PROFILES, ModelSpec

AREA = 64 * 64
PLAN = Plan(
    seeds=1,
    frames=2,
    steps=3,
    size=(64, 64),
    variants=(
        Variant("off"),
        Variant("original", Original()),
        Variant("silent", Ours(edge_scale=0, gram_scale=0, temporal_scale=0)),
        Variant("all", Ours(iterations=1)),
    ),
)


@pytest.fixture(scope="module")
def editor(family: Path) -> Editor:
    spec = ModelSpec(str(family), areas=Areas(AREA, AREA), presets=POCKET)
    return Shelf(replace(PROFILES["pocket"], models={"edit": spec})).editor("edit")


def run(editor: Editor, out: Path, plan: Plan = PLAN) -> tuple[list[dict[str, float]], list[str]]:
    lines: list[str] = []
    rows = study(plan, editor, load_pocket(), Dis(), out, lines.append)
    return rows, lines


def test_a_study_measures_goes_on_and_reports(editor: Editor, tmp_path: Path) -> None:
    rows, lines = run(editor, tmp_path)
    again, silence = run(editor, tmp_path)
    assert len(lines) == 5
    assert silence == []
    assert again == rows
    longer, more = run(editor, tmp_path, replace(PLAN, variants=(*PLAN.variants, Variant("off again"))))
    assert len(more) == 1
    assert len(longer) == len(rows) + PLAN.frames

    by = {name: [row for row in rows if row["variant"] == name] for name in ("off", "original", "silent", "all")}
    measured = ("edge_error", "edge_f1", "lpips_to_true", "warp_error", "psnr")
    for silent, off in zip(by["silent"], by["off"], strict=True):
        assert [silent[key] for key in measured] == [off[key] for key in measured]
    assert any(guided["edge_error"] != off["edge_error"] for guided, off in zip(by["all"], by["off"], strict=True))
    # The original's steps are so small that bfloat16's rounding of the latents is most of what they change.
    for original, off in zip(by["original"], by["off"], strict=True):
        assert original["psnr"] == pytest.approx(off["psnr"], abs=0.2)

    names = [variant.name for variant in PLAN.variants]
    found = bars(rows, "all")
    files = write({"commit": "c", "setting": "s", "bars": {"all": found}}, rows, names, tmp_path / "report")
    assert {file.name for file in files} == {"ttlg.json", "ttlg.md", "ttlg.png", "steps.png"}
    assert json.loads((tmp_path / "report" / "ttlg.json").read_text())["rows"] == rows
    assert table(rows, names).count("\n") == 1 + 1 + len(names)
    assert len(list((tmp_path / "frames" / "all").glob("*.png"))) == PLAN.frames
    sheet = contact_sheet(tmp_path / "frames", names, tmp_path / "frames.png")
    assert sheet is not None
    assert contact_sheet(tmp_path / "nothing", names, tmp_path / "none.png") is None
    with Image.open(sheet) as image:
        assert image.height > (1 + len(names)) * PLAN.size[1]


def row(variant: str, frame: int, edge_error: float, **more: float) -> dict[str, object]:
    values = {
        "edge_f1": 0.5, "lpips_to_true": 0.2, "gram_to_true": 1.0, "gram_to_init": 1.0, "warp_error": 0.1,
        "motion": 0.1, "true_motion": 0.1, "psnr": 20.0,
    }  # fmt: skip
    return {"variant": variant, "seed": 0, "frame": frame, "edge_error": edge_error, **values, **more}


def test_bars_are_counted_over_the_floor() -> None:
    rows = [row("floor", 1, 0.01), row("floor", 2, 0.01), row("off", 1, 0.11), row("off", 2, 0.11)]
    better = {"edge_f1": 0.6, "lpips_to_true": 0.19, "gram_to_init": 0.9, "warp_error": 0.08, "motion": 0.085}
    rows += [row("on", 1, 0.05, **better), row("on", 2, 0.09, **better)]
    found = {bar["bar"]: bar for bar in bars(rows, "on")}
    assert found["edge error over the floor, of off's"]["value"] == pytest.approx(0.6)
    assert all(bar["holds"] for bar in found.values())
    assert "**no**" not in bars_table(list(found.values()))
    worse = [*rows[:4], row("on", 1, 0.05), row("on", 2, 0.12, motion=0.02)]
    failed = [bar["bar"] for bar in bars(worse, "on") if not bar["holds"]]
    assert "frames whose edge error is no worse" in failed
    assert "motion, of the true clips'" in failed
    assert "edge F1, gain" in failed
    assert summary(rows, "on")["motion"] == pytest.approx(0.85)


def test_the_ablation_covers_every_combination_once() -> None:
    full, quick = variants(quick=False), variants(quick=True)
    settings = [variant.guidance for variant in full if variant.name.startswith("lr")]
    assert len(settings) == len(set(settings)) == 3 * 4 * 3 * 2 - 1 + 3  # and three of temporal_scale
    assert {variant.name for variant in quick} < {variant.name for variant in full}
    assert len(quick) == 17


def test_a_study_of_people_is_kept_apart(editor: Editor, tmp_path: Path) -> None:
    plan = replace(PLAN, variants=PLAN.variants[:1])
    shapes, _ = run(editor, tmp_path, plan)
    people, made = run(editor, tmp_path, replace(plan, people=True))
    assert len(made) == 2
    assert [row["true_motion"] for row in people] != [row["true_motion"] for row in shapes]


def test_guidance_adds_little_to_a_frame_at_the_real_shapes() -> None:
    """1024², 50 steps, CFG, three references: 15 % is the bar; an iteration of edges and style costs ≤ 3.2 decodes."""
    work = frame_work(("edge", "gram"))
    assert 0.005 < work.share < 0.15
    assert all(cost <= 3.2 * work.decode for cost in work.iterations.values())
    # docs: a forward with two references is 292.7 TFLOP, with one 167.3; a third adds more, attention being square.
    assert 4.0e14 < work.forward < 4.8e14


def test_the_command_names_what_it_does_not_know(tmp_path: Path) -> None:
    runner = CliRunner()
    assert "--quick" in runner.invoke(app, ["bench", "ttlg", "--help"], env={"COLUMNS": "120"}).output
    unknown = runner.invoke(app, ["bench", "ttlg", "--quick", "--only", "magic", "-o", str(tmp_path)])
    assert unknown.exit_code == 2
    assert "magic" in unknown.output
    nowhere = runner.invoke(app, ["bench", "ttlg", "--weights", str(tmp_path), "-o", str(tmp_path)])
    assert nowhere.exit_code == 2
    assert "no family" in nowhere.output


def test_the_originals_step_is_a_unit_vector_times_lr(editor: Editor) -> None:
    from darkroom.bench.ttlg_original import original_guidance
    from darkroom.technique.sampling import Prediction

    sigmas = torch.tensor([0.9, 0.5, 0.0])
    x = editor.noise([1], 64, 64)
    velocity = torch.randn(x.shape, generator=torch.Generator().manual_seed(0))
    edges, init = torch.zeros(1, 1, 64, 64), torch.zeros(1, 3, 64, 64)
    edges[..., 20, :] = 1
    settings = Original(lr=5.0, last_steps=2)
    wrapped = original_guidance(
        lambda z, sigma: Prediction(velocity), settings, editor, load_pocket(), edges, init, sigmas
    )
    for step, (sigma, after) in enumerate(pairwise(sigmas)):
        shift = wrapped(x, sigma).shift
        assert shift is not None, step
        # In bfloat16 a value near 3 is known to 1/128, over 1,024 values: about 0.1 of the length.
        assert float(((1 - after) * shift).norm()) == pytest.approx(5.0, rel=0.1)
    unguided = original_guidance(
        lambda z, sigma: Prediction(velocity),
        replace(settings, last_steps=1),
        editor,
        load_pocket(),
        edges,
        init,
        sigmas,
    )
    assert unguided(x, sigmas[0]).shift is None
