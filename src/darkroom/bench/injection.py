"""Injection in the pocket world: does a head know people it was never trained on, and by which settings best?

People are drawn, and no two are alike. A head is trained on some of them by `injection_train` and swept over the others
by `injection_sweep`, the very jobs that a worker runs. Half of the others chooses the strength; the other half, which
had no part in that, is judged there.
"""

from __future__ import annotations

import base64
import io
import json
import shutil
import tempfile
import zipfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from darkroom.models.weights import sha256
from darkroom.pocket.shipped import WEIGHTS, install
from darkroom.pocket.world.people import Person, draw_person
from darkroom.pocket.world.portraits import draw_portrait, draw_sitting
from darkroom.technique.scores import paired_difference

Run = Callable[[str, Mapping[str, Any]], tuple[Mapping[str, Any], Path]]
"""(job id, input) -> (reply, folder of the job's files). Raises where the job failed."""

Report = Callable[[str], None]

ALPHAS = (0.5, 0.75, 1.0, 1.5, 2.0, 3.0)
KEPT = 0.9
"""Of the prompt's own adherence, what a strength must keep to be chosen."""
HEAD = "checkpoints/head.safetensors"


@dataclass(frozen=True)
class Plan:
    """How much is drawn and run: people to train on and to judge by, photos of each, strengths, seeds.

    taught_prompt: what heads are trained on. It says nothing of the background, as photos have any; the words behind
    the slots do not change how the slots read, so that the head fits `base_prompt`, too, which a sweep draws.
    """

    train_people: int = 1200
    test_people: int = 20
    views: int = 2
    alphas: tuple[float, ...] = ALPHAS
    gen_seeds: tuple[int, ...] = (1234, 5678)
    taught_prompt: str = "a portrait of ~ID~"
    base_prompt: str = "a portrait of ~ID~ in front of a blue background"
    seed: int = 123


@dataclass(frozen=True)
class Variant:
    """One way to train: a name, and fields of injection_train."""

    name: str
    fields: Mapping[str, Any] = field(default_factory=dict)


DEFAULTS: Mapping[str, Any] = {
    "objective": "caption", "epochs": 24, "batch_size": 32, "lr": 4e-3, "slots": 20, "rank": 128,
    "held_out": 0,
}  # fmt: skip
KNOBS: Mapping[str, Sequence[Mapping[str, Any]]] = {
    # A step of flow goes through the transformer, there and back, and costs ten times as much.
    "objective": [*({"objective": name, "epochs": 4} for name in ("flow", "both")), {"objective": "zero"}],
    "lr": [{"lr": value} for value in (1e-3, 1e-2)],
    "loss weights": [
        {"cosine_weight": 1.0, "mse_weight": 0.0, "rms_weight": 0.0},
        {"cosine_weight": 0.0, "mse_weight": 1.0, "rms_weight": 0.0},
    ],
    "slots": [{"slots": value} for value in (8, 32)],
    "rank": [{"rank": value} for value in (32, 64)],
}


def variants(quick: bool) -> list[Variant]:
    """The defaults, then every knob by itself around them; quick: the four objectives alone."""
    knobs = {"objective": KNOBS["objective"]} if quick else KNOBS
    return [Variant("defaults"), *(Variant(_name(change), change) for knob in knobs.values() for change in knob)]


def pick(quick: bool, only: Sequence[str], ship: str | None, epochs: int | None) -> list[Variant]:
    """The variants named in `only`, or all, trained for so many epochs where that is given and not in their name.

    Raises ValueError for a name that none has, and where the one to `ship` would not be run.
    """
    offered = {variant.name: variant for variant in variants(quick)}
    chosen = [variant for name, variant in offered.items() if not only or name in only]
    names = [variant.name for variant in chosen]
    for option, wanted, among in (("only", list(only), list(offered)), ("install", [ship] if ship else [], names)):
        if missing := sorted(set(wanted) - set(among)):
            raise ValueError(f"{option}: there is no variant {missing[0]!r}; there are {', '.join(among)}")
    if epochs is None:
        return chosen
    return [Variant(variant.name, {"epochs": epochs, **variant.fields}) for variant in chosen]


def _name(change: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {value:g}" if isinstance(value, float) else f"{name} {value}"
                     for name, value in change.items())  # fmt: skip


# -- people ---------------------------------------------------------------------------------------


def drawn_people(count: int, seed: int) -> list[Person]:
    """People of whom no two look alike; the same seed draws the same ones."""
    rng, found = np.random.default_rng((seed, 6)), dict[str, Person]()
    while len(found) < count:
        person = draw_person(rng)
        # By words: two bald people may differ in hair that neither has.
        found.setdefault(person.caption(), person)
    return list(found.values())


def album(people: Iterable[Person], views: int, seed: int, first: int = 0) -> str:
    """The dataset of these people as a data URI: each in several views, with a caption.

    Every other view is a portrait as the pocket model draws them, the rest are of any place, tilt and ground.
    """
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for number, person in enumerate(people, first):
            rng = np.random.default_rng((seed, 7, number))
            archive.writestr(zipfile.ZipInfo(f"seed_{number:04d}/caption.txt"), person.caption())
            for view in range(views):
                picture = io.BytesIO()
                photo_of(person, rng, posed=view % 2 == 0).save(picture, "PNG")
                name = f"seed_{number:04d}/photo_view_{view:02d}.png"
                archive.writestr(zipfile.ZipInfo(name), picture.getvalue())
    return f"data:application/zip;base64,{base64.b64encode(file.getvalue()).decode()}"


def photo_of(person: Person, rng: np.random.Generator, posed: bool = False) -> Image.Image:
    """One view of them; posed: in front of one colour, upright and in the middle."""
    portrait = draw_sitting(rng, person) if posed else draw_portrait(rng, person=person)
    return Image.fromarray(np.round(portrait.render() * 255).astype(np.uint8))


# -- the study ------------------------------------------------------------------------------------


def study(plan: Plan, chosen: Sequence[Variant], run: Run, out: Path, report: Report) -> list[dict[str, Any]]:
    """A row per variant. What is done is kept in `out`/rows and not done again, unless the weights are others.

    Each variant's head is left in `out`/heads.
    """
    people = drawn_people(plan.train_people + plan.test_people, plan.seed)
    train = album(people[: plan.train_people], plan.views, plan.seed)
    test = album(people[plan.train_people :], plan.views, plan.seed, plan.train_people)
    rows = []
    for variant in chosen:
        kept = out / "rows" / f"{file_name(variant.name)}.json"
        settings = json.loads(json.dumps([asdict(plan), {**DEFAULTS, **variant.fields}, weights_used()]))
        if kept.is_file() and (row := json.loads(kept.read_text()))["settings"] == settings:
            rows.append(row)
            continue
        report(f"{variant.name}: {len(rows) + 1} of {len(chosen)}")
        row = {"name": variant.name, "settings": settings, **_one(plan, variant, train, test, run, out)}
        kept.parent.mkdir(parents=True, exist_ok=True)
        kept.write_text(json.dumps(row, indent=1) + "\n")
        rows.append(row)
    return rows


def file_name(variant: str) -> str:
    """Of a variant's row and head, without their endings."""
    return variant.replace(", ", "_").replace(" ", "-")


def weights_used() -> dict[str, str]:
    """Checksums of the pocket parts that a study draws and judges with."""
    parts = ("edit", "qwen3vl", "identity")
    files = sorted(file for part in parts for file in (WEIGHTS / part).rglob("*.safetensors"))
    return {file.relative_to(WEIGHTS).as_posix(): sha256(file) for file in files}


def ship(head_file: Path) -> None:
    """Put a head that a study has left in the place of the shipped one."""
    with tempfile.TemporaryDirectory() as folder:
        shutil.copy(head_file, Path(folder) / "head.safetensors")
        install(Path(folder), WEIGHTS / "injection")


def _one(plan: Plan, variant: Variant, train: str, test: str, run: Run, out: Path) -> dict[str, Any]:
    job = f"study-{variant.name}"
    fields = {**DEFAULTS, **variant.fields, "base_prompt": plan.taught_prompt, "seed": plan.seed}
    taught, folder = run(f"{job}-train", {"type": "injection_train", "dataset": train, **fields})
    trained = (folder / HEAD).read_bytes()
    head_file = out / "heads" / f"{file_name(variant.name)}.safetensors"
    head_file.parent.mkdir(parents=True, exist_ok=True)
    head_file.write_bytes(trained)
    head = base64.b64encode(trained).decode()
    sweep = {
        "type": "injection_sweep",
        "dataset": test,
        "head": f"data:application/octet-stream;base64,{head}",
        "alphas": list(plan.alphas),
        "gen_seeds": list(plan.gen_seeds),
        "base_prompt": plan.base_prompt,
        "seed": plan.seed,
    }
    swept, _ = run(f"{job}-sweep", sweep)
    summaries = [person["summary"] for person in swept["people"].values()]
    return {
        "validation_loss": taught["validation_loss"],
        "train_seconds": taught["timings"]["total_ms"] / 1000,
        "curves": {name: curve(summaries, name) for name in ("similarity", "adherence", "sharpness", "diversity")},
        **verdict(summaries),
    }


def curve(summaries: Sequence[Sequence[Mapping[str, Any]]], name: str) -> dict[str, dict[str, float]]:
    """Means over people: kind -> α (as text, for JSON) -> value."""
    found: dict[str, dict[str, list[float]]] = {}
    for row in (row for summary in summaries for row in summary):
        if row[name] is not None:
            found.setdefault(row["kind"], {}).setdefault(f"{row['alpha']:g}", []).append(row[name])
    return {kind: {a: float(np.mean(values)) for a, values in by.items()} for kind, by in found.items()}


def verdict(summaries: Sequence[Sequence[Mapping[str, Any]]]) -> dict[str, Any]:
    """The strength that the first half of the people chooses, and what it is worth for the second half.

    margins: similarity to the person less that of the prompt alone, of another person's and of a random residual, each
    with its 95 % bootstrap interval over people. adherence_kept: of the prompt's own.
    """
    half = max(1, len(summaries) // 2)
    alpha = _choose(summaries[:half])
    judged = summaries[half:] or summaries
    own = _values(judged, "identity", alpha, "similarity")
    margins = {}
    for kind, at in (("base", 0.0), ("wrong", alpha), ("random", alpha), ("caption", 0.0)):
        other = _values(judged, kind, at, "similarity")
        if len(other) == len(own):
            margins[kind] = asdict(paired_difference(other, own))
    base, kept = (_values(judged, kind, at, "adherence") for kind, at in (("base", 0.0), ("identity", alpha)))
    return {
        "alpha": alpha,
        "similarity": float(np.mean(own)),
        "margins": margins,
        "adherence_kept": float(np.mean(kept) / np.mean(base)) if kept and base and np.mean(base) > 0 else None,
    }


def _choose(summaries: Sequence[Sequence[Mapping[str, Any]]]) -> float:
    """The greatest mean similarity among strengths that keep adherence; the smallest strength where none does."""
    alphas = sorted({row["alpha"] for summary in summaries for row in summary if row["kind"] == "identity"})
    base = _values(summaries, "base", 0.0, "adherence")
    floor = KEPT * float(np.mean(base)) if base else None
    kept = [
        alpha
        for alpha in alphas
        if floor is None or np.mean(_values(summaries, "identity", alpha, "adherence")) >= floor
    ]
    return float(max(kept or alphas[:1], key=lambda a: np.mean(_values(summaries, "identity", a, "similarity"))))


def _values(
    summaries: Sequence[Sequence[Mapping[str, Any]]], kind: str, alpha: float, name: str
) -> list[float]:
    """One value per person."""
    rows = (row for summary in summaries for row in summary if (row["kind"], row["alpha"]) == (kind, alpha))
    return [float(row[name]) for row in rows if row[name] is not None]


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Markdown: a line per variant."""
    lines = [
        "| variant | α | similarity | − prompt alone | − another person | − random | − caption | adherence kept | s |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        gaps = [_gap(row["margins"].get(kind)) for kind in ("base", "wrong", "random", "caption")]
        kept = "" if row["adherence_kept"] is None else f"{row['adherence_kept']:.2f}"
        lines.append(f"| {row['name']} | {row['alpha']:g} | {row['similarity']:.3f} | {' | '.join(gaps)} | {kept} "
                     f"| {row['train_seconds']:.0f} |")  # fmt: skip
    return "\n".join(lines)


def _gap(margin: Mapping[str, float] | None) -> str:
    return "" if margin is None else f"{margin['mean']:+.3f} [{margin['low']:+.3f}, {margin['high']:+.3f}]"
