"""`bridge_evaluate`: cases whose right result is known, edited with the model's own sight and through a bridge."""

from __future__ import annotations

import json
from collections.abc import Generator, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

from torch import Tensor

from darkroom.artifacts import Artifact
from darkroom.jobs import BridgeEvaluate
from darkroom.media import encode_image
from darkroom.models.bridge import Bridge
from darkroom.models.enhanced import EnhancedEditor, Sampling
from darkroom.models.presets import DEFAULT, Preset
from darkroom.models.vision import Sight
from darkroom.technique.bridge import parameters_of
from darkroom.workers.bridging.opening import Extractor, grids, settled, stored_bridge
from darkroom.workers.evaluation.battery import suites
from darkroom.workers.evaluation.case import Suite, to_picture
from darkroom.workers.evaluation.report import Judged, report
from darkroom.workers.evaluation.scenes import scale_for
from darkroom.workers.evaluation.study import Subject, Tried, attempt, outcomes, table
from darkroom.workers.recipe import Desk, Event, Progress, Recipe, Unencoded, Work


@dataclass(frozen=True)
class Inputs:
    """The bridge, None where an untrained one is asked for, and the cases."""

    bridge: Bridge | None
    suites: Sequence[Suite]


def prepare(job: BridgeEvaluate, desk: Desk) -> Inputs:
    """Read the bridge and draw the cases: files and arithmetic, nothing of the device."""
    with desk.clock.span("load"):
        bridge = stored_bridge(job.bridge, desk)
    scale = scale_for(desk.shelf.spec("edit").areas.vae)
    drawn = suites(job.suites, job.cases, scale, partial(distance, desk), job.languages)
    for suite in drawn:
        for note in suite.notes:
            desk.warn(f"{suite.name}: {note}")
    return Inputs(bridge, drawn)


def run(job: BridgeEvaluate, desk: Desk) -> Work:
    """Look at all cases with the vision model, then load the editor, and edit and judge them suite by suite."""
    inputs: Inputs = desk.prepared
    preset = chosen(job, desk)
    seeds = [job.seed + number for number in range(job.seeds)]
    extractor, sights = yield from looked(job, inputs, desk)
    editor = desk.editor("edit")
    enhanced = EnhancedEditor(editor, settled(inputs.bridge, editor, extractor, desk))
    if enhanced.bridge.is_identity:
        desk.warn("the bridge is untrained, which leaves every picture as the baseline has it")
    sampling = Sampling(preset.steps, preset.true_cfg_scale, shift=preset.shift)
    subject = Subject(enhanced, lambda shot: sights[id(shot)], sampling)
    tested = []
    for suite in inputs.suites:
        tried = yield from whole(suite, subject, seeds, desk)
        tested.append(Judged(suite, tried, outcomes(suite, tried)))
        yield from files(tested[-1], seeds)
    told = described(job, desk, enhanced.bridge, preset)
    page = report(tested, heading(told), desk.warnings, len(seeds))
    scores = {one.suite.name: {outcome.ruler.name: outcome.entry() for outcome in one.outcomes} for one in tested}
    everything = json.dumps({**told, "scores": scores, "warnings": desk.warnings}, indent=2)
    yield Artifact("full_evaluation/report.html", "text/html", page.encode())
    yield Artifact("scores.json", "application/json", everything.encode())
    return {**told, "scores": scores}


def distance(desk: Desk, one: Tensor, other: Tensor) -> Tensor:
    """The shelf's perceptual distance, [B] on the CPU, of pictures from there; loaded when first asked."""
    device = desk.shelf.profile.device
    return desk.shelf.perceptual().distance(one.to(device), other.to(device)).cpu()


def chosen(job: BridgeEvaluate, desk: Desk) -> Preset:
    """The preset with the job's explicit fields in place."""
    preset = desk.shelf.spec("edit").presets[job.preset or DEFAULT]
    return replace(
        preset,
        steps=preset.steps if job.num_inference_steps is None else job.num_inference_steps,
        true_cfg_scale=preset.true_cfg_scale if job.true_cfg_scale is None else job.true_cfg_scale,
    )


def looked(
    job: BridgeEvaluate, inputs: Inputs, desk: Desk
) -> Generator[Event, None, tuple[Extractor, dict[int, Sight]]]:
    """What the vision model sees of every shot, kept in main memory; afterwards it may go."""
    shots = [shot for suite in inputs.suites for case in suite.cases for shot in case.shots]
    with desk.clock.span("load"):
        eyes = desk.shelf.vision(
            language=job.extractor_prompt is not None,
            eight_bit=job.loading == "8bit",
            visiting=job.loading == "offload",
        )
    sights = {}
    for done, shot in enumerate(shots):
        yield Progress("look", done, len(shots))
        with desk.clock.span("encode"):
            picture = to_picture(shot.seen)
            seen = eyes.look(picture, grid=grids([picture], desk)[0], prompt=job.extractor_prompt)
            sights[id(shot)] = Sight(tuple(level.cpu() for level in seen.levels), seen.final.cpu(), seen.grid)
    if job.loading == "sequential":
        desk.shelf.evict("vision")
    return Extractor(eyes.hidden_size, eyes.levels, job.extractor_prompt is not None), sights


def whole(suite: Suite, subject: Subject, seeds: Sequence[int], desk: Desk) -> Generator[Event, None, list[Tried]]:
    """All cases of a suite."""
    tried = []
    for number in range(len(suite.cases)):
        work = attempt(subject, suite, number, seeds)
        while True:
            with desk.clock.span("denoise"):
                try:
                    next(work)
                except StopIteration as finished:
                    tried.append(finished.value)
                    break
            yield Progress(suite.name, number, len(suite.cases))
    return tried


def files(one: Judged, seeds: Sequence[int]) -> Iterator[Event]:
    """The suite's table and a sheet of each case."""
    name = one.suite.name
    yield Artifact(f"{name}/scores.csv", "text/csv", table(one.suite, one.tried, seeds).encode())
    for case in one.tried:
        yield Unencoded(partial(sheet, f"{name}/case_{case.number:04d}.png", case))


def sheet(name: str, case: Tried) -> Artifact:
    """A case's pictures as a file."""
    data, media_type = encode_image(case.sheet, "png")
    return Artifact(name, media_type, data, {"width": case.sheet.width, "height": case.sheet.height})


def described(job: BridgeEvaluate, desk: Desk, bridge: Bridge, preset: Preset) -> dict[str, Any]:
    """What was evaluated, and how."""
    return {
        "model": desk.shelf.identity("edit"),
        "extractor": desk.shelf.identity("vision"),
        "bridge": {
            "state": "untrained" if bridge.is_identity else "trained",
            **asdict(bridge.config),
            "parameters": parameters_of(bridge.config),
            "about": dict(bridge.about),
        },
        "perceptual": desk.shelf.perceptual().name,
        "seed": job.seed,
        "parameters": {
            "num_inference_steps": preset.steps,
            "true_cfg_scale": preset.true_cfg_scale,
            "cases": job.cases,
            "seeds": job.seeds,
        },
    }


def heading(told: dict[str, Any]) -> dict[str, str]:
    """The head of the report."""
    bridge, parameters = told["bridge"], told["parameters"]
    return {
        "Model": f"{told['model']['id']}, {told['model']['precision']}",
        "Vision model": str(told["extractor"]["id"]),
        "Bridge": f"{bridge['state']}, {bridge['fusion']}, {bridge['parameters']:,} parameters",
        "Sampling": f"{parameters['num_inference_steps']} steps, CFG {parameters['true_cfg_scale']:g}",
        "Seeds": f"{parameters['seeds']}, from {told['seed']}",
        "LPIPS": str(told["perceptual"]),
    }


RECIPE = Recipe(run, prepare=prepare)
