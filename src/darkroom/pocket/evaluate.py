"""How good the pocket family is: right edits per kind, on scenes and photos that training has never seen."""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from darkroom.models import lora
from darkroom.models.editor import Editor
from darkroom.models.presets import Preset
from darkroom.models.weights import weights_digest
from darkroom.pocket.judging.drawn import DrawnScore, held_out_portrait, judge_portraits
from darkroom.pocket.judging.grids import draw_grid
from darkroom.pocket.judging.rules import is_right
from darkroom.pocket.judging.samples import apply, load_editor, round_trip, said, stem
from darkroom.pocket.shipped import TAUGHT
from darkroom.pocket.world.colours import Pixels
from darkroom.pocket.world.edits import KINDS, Edit, draw_edit
from darkroom.pocket.world.photos import crop
from darkroom.pocket.world.scenes import draw_scene

# Training draws its scenes from (seed, number) with small seeds; these never meet them.
HELD_OUT_SEED = 900_001
# People drawn from a caption: no edit, and judged by another ruler.
PORTRAIT = "portrait"

Report = Callable[[str], None]


@dataclass(frozen=True)
class Score:
    """One kind of edit with one preset. PSNR in dB, means over `cases`; `preserved` only where something must be.

    `lora`: whether the preset's was worn. `right`: share judged right; `lowest` and `highest`: that of the worst and
    the best seed. `psnr`: result against target; `source_psnr`: the unedited source against it. `preserved`: result
    against target outside the mask, where source and target are the same; `round_trip`: the VAE alone there, which
    bounds it.
    """

    kind: str
    steps: int
    true_cfg_scale: float
    lora: bool
    cases: int
    right: float
    lowest: float
    highest: float
    psnr: float
    source_psnr: float
    preserved: float | None
    round_trip: float | None


def evaluate(
    folder: Path,
    out: Path,
    cases: int = 24,
    presets: Sequence[Preset] = (Preset(steps=8, true_cfg_scale=1.0),),
    seeds: Sequence[int] = (0,),
    kinds: Sequence[str] = TAUGHT,
    report: Report = print,
    size: tuple[int, int] = (128, 128),
) -> list[Score]:
    """Judge the family in `folder`; write scores.json, scores.md and a picture grid per kind and preset to `out`.

    Every case is edited once per seed; the shown ones are the first of each kind with the first seed, not the best.
    `kinds`: of KINDS, and PORTRAIT. `size`: (width, height) of the cases in pixels. Raises what reading a preset's LoRA
    raises, and ValueError for one that was made for another family.
    """
    editor = load_editor(folder)
    for preset in presets:
        _made_for(folder, preset)
    portraits, kinds = PORTRAIT in kinds, [kind for kind in kinds if kind != PORTRAIT]
    edits = {kind: [held_out(kind, number, *size) for number in range(cases)] for kind in kinds}
    people = [held_out_portrait(HELD_OUT_SEED, number) for number in range(cases)] if portraits else []
    scores, drawn = [], []
    for preset in presets:
        loras = [] if preset.lora is None else [lora.of_preset(preset.lora)]
        with lora.worn(editor.transformer, loras):
            for kind in kinds:
                score, rows = _judge(editor, edits[kind], preset, seeds)
                scores.append(score)
                shown = rows[:: len(seeds)][:12]
                draw_grid(out / f"{kind.replace(' ', '_')}_{stem(preset)}.png", shown)
                report(f"{said(preset)}: {kind} {score.right:.0%} right, {score.psnr:.1f} dB")
            if portraits:
                drawn.append(judge_portraits(editor, out, people, preset, report))
    _write(out, scores, drawn, vae_figures(editor))
    return scores


def held_out(kind: str, number: int, width: int = 128, height: int = 128) -> Edit:
    """Case `number` of `kind`; tones and edges alternate between held-out photos and scenes."""
    rng = np.random.default_rng((HELD_OUT_SEED, KINDS.index(kind), number))
    return draw_edit(rng, kind, held_out=True, photo=float(number % 2 == 0), width=width, height=height)


def vae_figures(editor: Editor, cases: int = 24) -> dict[str, float]:
    """PSNR of the VAE's round trip in dB on held-out scenes and photos."""
    rngs = [np.random.default_rng((HELD_OUT_SEED, 99, number)) for number in range(cases)]
    pictures = {
        "scenes": [draw_scene(rng).render() for rng in rngs],
        "photos": [crop(rng, 128, 128, held_out=True) for rng in rngs],
    }
    return {
        name: float(np.mean([psnr(round_trip(editor, image), image) for image in images]))
        for name, images in pictures.items()
    }


def psnr(one: Pixels, other: Pixels, mask: np.ndarray[tuple[int, ...], np.dtype[np.bool_]] | None = None) -> float:
    """Peak signal-to-noise ratio in dB of pictures in [0, 1], where `mask` holds; at most 60."""
    difference = (one - other) if mask is None else (one - other)[mask]
    return float(min(60.0, -10 * np.log10(np.mean(difference**2) + 1e-12)))


def _made_for(family: Path, preset: Preset) -> None:
    """Raise ValueError where the preset's LoRA says what it was made for, and that is another transformer."""
    if preset.lora is None:
        return
    if lora.made_for(Path(preset.lora.repo)) not in (None, weights_digest(family / "transformer")):
        raise ValueError(
            f"--preset: the LoRA in {preset.lora.repo} was made for another transformer than that of {family}; "
            f"`darkroom pocket train --part lightning --begin-with {family} --work out/lightning` makes one, "
            f"and --lora out/lightning/lightning/{preset.lora.file} judges it"
        )


def _judge(
    editor: Editor, edits: list[Edit], preset: Preset, seeds: Sequence[int]
) -> tuple[Score, list[tuple[Edit, Pixels, bool]]]:
    rows = []
    for edit in edits:
        for seed in seeds:
            result = apply(editor, edit, seed, preset)
            rows.append((edit, result, is_right(edit, result)))
    of_seed = [float(np.mean([right for *_, right in rows[start :: len(seeds)]])) for start in range(len(seeds))]
    partial = [(edit, result) for edit, result, _ in rows if not edit.mask.all()]
    kept = [psnr(result, edit.target, ~edit.mask) for edit, result in partial]
    bounds = [psnr(round_trip(editor, edit.target), edit.target, ~edit.mask) for edit, _ in partial]
    score = Score(
        kind=edits[0].kind,
        steps=preset.steps,
        true_cfg_scale=preset.true_cfg_scale,
        lora=preset.lora is not None,
        cases=len(rows),
        right=float(np.mean([right for *_, right in rows])),
        lowest=min(of_seed),
        highest=max(of_seed),
        psnr=float(np.mean([psnr(result, edit.target) for edit, result, _ in rows])),
        source_psnr=float(np.mean([psnr(edit.source, edit.target) for edit, *_ in rows])),
        preserved=float(np.mean(kept)) if kept else None,
        round_trip=float(np.mean(bounds)) if bounds else None,
    )
    return score, rows


def _write(out: Path, scores: list[Score], drawn: list[DrawnScore], vae: dict[str, float]) -> None:
    out.mkdir(parents=True, exist_ok=True)
    report = {"vae_psnr": vae, "scores": [asdict(score) for score in scores], "portraits": list(map(asdict, drawn))}
    (out / "scores.json").write_text(json.dumps(report, indent=2) + "\n")
    (out / "scores.md").write_text(table(scores, drawn, vae))


def table(scores: list[Score], drawn: list[DrawnScore], vae: dict[str, float]) -> str:
    """The scores as Markdown, for the model card."""
    lines = [
        "| kind | steps | CFG | cases | right | PSNR to target | of the unedited source | kept outside | VAE alone |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for score in scores:
        kept, bound = (f"{v:.1f} dB" if v is not None else "–" for v in (score.preserved, score.round_trip))
        lines.append(
            f"| {score.kind} | {_steps(score)} | {score.true_cfg_scale:g} | {score.cases} | {_share(score)} "
            f"| {score.psnr:.1f} dB | {score.source_psnr:.1f} dB | {kept} | {bound} |"
        )
    lines += [line for portraits in drawn for line in ("", _told(portraits))]
    lines += ["", f"VAE round trip: {vae['scenes']:.1f} dB on scenes, {vae['photos']:.1f} dB on photos."]
    return "\n".join(lines) + "\n"


def _told(drawn: DrawnScore) -> str:
    return (
        f"Portraits from captions, steps {_steps(drawn)}, CFG {drawn.true_cfg_scale:g}: of what {drawn.cases} captions "
        f"name {drawn.named:.0%} is read back from the drawings, {drawn.truth:.0%} from true pictures."
    )


def _steps(score: Score | DrawnScore) -> str:
    return f"{score.steps} with LoRA" if score.lora else str(score.steps)


def _share(score: Score) -> str:
    """The share right; with several seeds that differ, the worst and the best one's too."""
    if score.lowest == score.highest:
        return f"{score.right:.0%}"
    return f"{score.right:.0%} ({score.lowest:.0%}–{score.highest:.0%})"


def parse_size(text: str) -> tuple[int, int]:
    """(width, height) in pixels from "160x96". Raises ValueError for sides that no family can be judged at."""
    sides = text.split("x")
    if len(sides) != 2 or not all(side.isdecimal() for side in sides):
        raise ValueError(f'"{text}" is no size; write it as 160x96')
    width, height = map(int, sides)
    if width % 16 or height % 16 or min(width, height) < 96:
        raise ValueError("sides must be multiples of 16 pixels, at least 96")
    return width, height
