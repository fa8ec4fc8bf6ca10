"""`bridge_compare`: each picture edited twice from the same noise, with the model's own sight and with the bridge's."""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from darkroom.artifacts import Artifact
from darkroom.errors import InputTooLarge
from darkroom.jobs import BridgeCompare
from darkroom.media import decode_image, encode_image, labelled_grid, to_uint8
from darkroom.media.heat import difference, heat_map
from darkroom.models import lora
from darkroom.models.bridge import Bridge, merged_grids
from darkroom.models.editor import Editor, References
from darkroom.models.enhanced import EnhancedEditor, Pair, Sampling, make_sure
from darkroom.models.presets import DEFAULT, Preset
from darkroom.models.sight import PromptTooLong
from darkroom.models.vision import Sight
from darkroom.models.vision_report import cache_report, level_names
from darkroom.technique.bridge import parameters_of
from darkroom.workers.bridging.opening import Extractor, grids, look, open_vision, settled, stored_bridge, vision_told
from darkroom.workers.bridging.stages import Stages
from darkroom.workers.pictures.asked import advise, gather_loras, plan, warn_of_words
from darkroom.workers.recipe import Desk, Event, Progress, Recipe, Unencoded, Work


@dataclass(frozen=True)
class Inputs:
    """What the caller brought, ready for the models; `seen` is what the vision encoders see of `pictures`."""

    pictures: Sequence[Image.Image]
    seen: Sequence[Image.Image]
    loras: Sequence[lora.Lora]
    bridge: Bridge | None


@dataclass(frozen=True)
class Made:
    """Both pictures of one case, and the seconds that each took to sample and decode."""

    baseline: Image.Image
    enhanced: Image.Image
    pair: Pair
    seconds: tuple[float, float]


def prepare(job: BridgeCompare, desk: Desk) -> Inputs:
    """Decode the pictures, read LoRAs and the bridge: files and the network, nothing of the device."""
    preset = plan(job, desk.shelf.spec("edit").presets, job.preset or DEFAULT)
    advise(job, preset, desk)
    with desk.clock.span("decode_input"):
        decoded = {name: decode_image(desk.files[name], name, desk.limits) for name in job.sources()}
    for picture in decoded.values():
        for note in picture.notes:
            desk.warn(note)
    pictures = [decoded[f"images[{i}]"].image for i in range(len(job.images))]
    seen = pictures if job.sight_images is None else [decoded[f"sight_images[{i}]"].image for i in range(len(pictures))]
    with desk.clock.span("load"):
        return Inputs(pictures, seen, gather_loras(job, preset, desk), stored_bridge(job.bridge, desk))


def run(job: BridgeCompare, desk: Desk) -> Work:
    """Look at all pictures with the vision model, then load the editor and make both pictures of each case."""
    preset = plan(job, desk.shelf.spec("edit").presets, job.preset or DEFAULT)
    seed = job.seed if job.seed >= 0 else secrets.randbelow(2**31)
    inputs: Inputs = desk.prepared
    stages = Stages(desk.clock, torch.device(desk.shelf.profile.device))
    extractor, sights = yield from looked(job, inputs, desk, stages)
    with stages.stage("load editor", "load"):
        editor = desk.editor("edit")
    enhanced = EnhancedEditor(editor, settled(inputs.bridge, editor, extractor, desk))
    warn_of_words(job, editor, desk)
    if enhanced.bridge.is_identity:
        desk.warn("the bridge is untrained, which leaves every picture as the baseline has it")
    cases: list[dict[str, Any]] = []
    with lora.worn(editor.transformer, inputs.loras):
        for case in range(len(inputs.pictures)):
            made = yield from both(case, seed + case, job, preset, enhanced, sights[case], inputs, stages)
            yield from files(case, inputs.seen[case], made, desk)
            cases.append(told(case, seed + case, job, made, sights[case], enhanced))
    report = {
        "bridge": described(enhanced.bridge),
        "extractor": {**asdict(extractor), **vision_told(job, desk)},
        "alignment": job.alignment,
        "cases": cases,
        **stages.report(),
    }
    yield Artifact("report.json", "application/json", json.dumps(report, indent=2).encode())
    return {
        "seed": seed,
        "model": desk.shelf.identity("edit"),
        "bridge": report["bridge"],
        "parameters": {"num_inference_steps": preset.steps, "true_cfg_scale": preset.true_cfg_scale},
        "cases": [{key: case[key] for key in ("case", "prompt", "seed", "seconds", "difference")} for case in cases],
        "stages": stages.report()["stages"],
    }


def looked(
    job: BridgeCompare, inputs: Inputs, desk: Desk, stages: Stages
) -> Generator[Event, None, tuple[Extractor, list[Sight]]]:
    """What the vision model sees of every picture; afterwards it may go."""
    with stages.stage("load vision model", "load"):
        eyes = open_vision(job, desk)
        wanted = grids(inputs.seen, desk)
    sights = []
    for done, (picture, grid) in enumerate(zip(inputs.seen, wanted, strict=True)):
        yield Progress("look", done, len(wanted))
        with stages.stage("look", "encode"):
            sights.append(look(eyes, job, picture, grid))
    if job.loading == "sequential":
        desk.shelf.evict("vision")
    return Extractor(eyes.hidden_size, eyes.levels, job.extractor_prompt is not None), sights


def both(
    case: int, seed: int, job: BridgeCompare, preset: Preset, enhanced: EnhancedEditor, sight: Sight, inputs: Inputs,
    stages: Stages,
) -> Generator[Event, None, Made]:  # fmt: skip
    """Encode once, make sure that the bridge did what it should, and sample both sides from the same noise."""
    sampling = Sampling(preset.steps, preset.true_cfg_scale, job.negative_prompt, job.dimensions, preset.shift)
    with stages.stage("encode"):
        baseline = enhanced.editor.reference([inputs.pictures[case]], [inputs.seen[case]])
    with stages.stage("bridge", "encode"):
        pair = enhanced.through(baseline, [sight])
    conditionings = []
    for name, references in (("read baseline", pair.baseline), ("read enhanced", pair.enhanced)):
        with stages.stage(name, "encode"):
            conditionings.append(conditioned(job, case, enhanced, references, sampling))
    make_sure(enhanced.bridge, pair, *conditionings)
    pictures, seconds = [], []
    sides = list(zip(("baseline", "enhanced"), conditionings, strict=True))
    for number, (name, conditioning) in enumerate(sides):
        before = stages.seconds.get(name, 0.0)
        steps = staged(name, stages, enhanced.sample(conditioning, sampling, [seed]))
        for done, step in enumerate(steps, 1):
            latents = step.latents
            total = len(inputs.pictures) * len(sides) * preset.steps
            yield Progress(name, (case * len(sides) + number) * preset.steps + done, total)
        with stages.stage(name, "decode"):
            pictures.append(to_uint8(decoded(enhanced.editor, latents, pair.baseline, sampling)))
        seconds.append(round(stages.seconds[name] - before, 4))
    return Made(pictures[0], pictures[1], pair, (seconds[0], seconds[1]))


def conditioned(
    job: BridgeCompare, case: int, enhanced: EnhancedEditor, references: References, sampling: Sampling
) -> Any:
    """The prompt of a case read beside its pictures. Raises InputTooLarge."""
    try:
        return enhanced.condition(job.prompt_of(case), references, sampling)
    except PromptTooLong as error:
        field = f"prompt[{case}]" if isinstance(job.prompt, list) else "prompt"
        raise InputTooLarge(f"{field} or negative_prompt {error}", field=field) from error


def staged(name: str, stages: Stages, steps: Iterator[Any]) -> Iterator[Any]:
    """The steps, each of them timed and weighed as the stage `name`."""
    while True:
        with stages.stage(name, "denoise"):
            step = next(steps, None)
        if step is None:
            return
        yield step


def decoded(editor: Editor, latents: Tensor, references: References, sampling: Sampling) -> Tensor:
    """[3, H, W] in -1…1."""
    return editor.decode(latents, *editor.output_size(references, sampling.size))[0]


def files(case: int, seen: Image.Image, made: Made, desk: Desk) -> Iterator[Event]:
    """All pictures of a case, to be encoded beside the torch thread."""
    yield picture(f"baseline_{case:04d}.png", lambda: made.baseline)
    yield picture(f"enhanced_{case:04d}.png", lambda: made.enhanced)
    sheet = [seen.resize(made.baseline.size, Image.Resampling.LANCZOS), made.baseline, made.enhanced]
    labels = ("seen", "baseline", "enhanced")
    yield picture(f"comparison_{case:04d}.png", lambda: labelled_grid([sheet], column_labels=labels))
    yield picture(f"difference_{case:04d}.png", lambda: difference(made.baseline, made.enhanced))
    attention = made.pair.attention[0]
    if attention is None:
        desk.warn("a bridge whose fusion is mlp gives its levels no weights: there are no attention maps")
        return
    weights = attention.float().cpu().numpy()
    for number, name in enumerate(level_names(weights.shape[-1])):
        yield picture(f"attention_{name}_{case:04d}.png", partial(heat_map, seen, weights[..., number]))


def picture(name: str, draw: Callable[[], Image.Image]) -> Unencoded:
    """A PNG that is drawn and encoded on another thread."""

    def encode() -> Artifact:
        image = draw()
        data, media_type = encode_image(image, "png")
        return Artifact(name, media_type, data, {"width": image.width, "height": image.height})

    return Unencoded(encode)


def told(
    case: int, seed: int, job: BridgeCompare, made: Made, sight: Sight, enhanced: EnhancedEditor
) -> dict[str, Any]:
    """One line of the report's table, with the caches of both models."""
    visual = made.pair.baseline.visual
    gap = np.asarray(made.enhanced, dtype=np.float32) - np.asarray(made.baseline, dtype=np.float32)
    attention = made.pair.attention[0]
    means = None if attention is None else attention.float().mean(dim=(0, 1)).tolist()
    names = level_names(enhanced.bridge.config.levels)
    return {
        "case": case,
        "prompt": job.prompt_of(case),
        "seed": seed,
        "seconds": dict(zip(("baseline", "enhanced"), made.seconds, strict=True)),
        "difference": {
            "mean_of_255": round(float(np.abs(gap).mean()), 4),
            "max_of_255": int(np.abs(gap).max()),
            "changed_pixels": round(float((gap != 0).any(axis=-1).mean()), 4),
        },
        "attention": None if means is None else {n: round(m, 4) for n, m in zip(names, means, strict=True)},
        "tokens_replaced": made.pair.enhanced.visual.bridged,
        "caches": cache_report(sight, visual.tokens, merged_grids(visual, enhanced.merge)[0], enhanced.bridge.config),
    }


def described(bridge: Bridge) -> dict[str, Any]:
    """The bridge's form, size and state."""
    return {
        "state": "untrained" if bridge.is_identity else "trained",
        **asdict(bridge.config),
        "parameters": parameters_of(bridge.config),
        "about": dict(bridge.about),
    }


RECIPE = Recipe(run, prepare=prepare)
