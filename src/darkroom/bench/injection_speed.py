"""A sweep beside separate calls of diffusers' pipeline for the same pictures: seconds, and calls counted."""

from __future__ import annotations

import base64
import io
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

from PIL import Image

from darkroom.bench import yardstick
from darkroom.bench.injection import Run
from darkroom.models import heads
from darkroom.models.editor import Editor
from darkroom.models.heads import Head
from darkroom.models.vision import VisionExtractor
from darkroom.technique.injection import HeadConfig

ALPHAS, SEEDS = (0.5, 1.0, 1.5), (1, 2, 3)


def compare(
    photo: Image.Image, editor: Editor, eyes: VisionExtractor, run: Run, steps: int = 8, rounds: int = 3
) -> dict[str, Any]:
    """Median seconds of a 3 × 3 sweep, as a whole job from request to stored files, and of nine pipeline calls.

    The photo differs from round to round by one pixel, so that no cache helps; a first round is not counted.
    """
    config = HeadConfig(eyes.hidden_size, eyes.levels + 1, editor.text_encoder.config.text_config.hidden_size)
    head = _uri(heads.to_bytes(Head(heads.untrained(config, 0))), "application/octet-stream")
    pipeline = yardstick.generator_over(editor)
    ours, theirs, counts = [], [], dict[str, int]()
    for number in range(rounds + 1):
        prompt = f"a portrait of ~ID~ number {number}"
        photo.putpixel((0, 0), (number, 0, 0))
        job = {"type": "injection_sweep", "photos": [_uri(_png(photo), "image/png")], "head": head,
               "alphas": list(ALPHAS), "gen_seeds": list(SEEDS), "steps": steps, "guidance": 1.0, "controls": False,
               "base_prompt": prompt}  # fmt: skip
        with _counting(editor, eyes) as counted:
            seconds, (reply, _) = _timed(partial(run, f"speed-{number}", job))
        size = (reply["parameters"]["width"], reply["parameters"]["height"])
        nine, _ = _timed(partial(_nine, pipeline, reply["prompt"], steps, size))
        if number:
            ours.append(seconds)
            theirs.append(nine)
            counts = counted
    return {
        "sweep_seconds": statistics.median(ours),
        "pipeline_seconds": statistics.median(theirs),
        "ratio": statistics.median(ours) / statistics.median(theirs),
        "rounds": {"sweep": ours, "pipeline": theirs},
        "steps": steps,
        "calls": dict(counts),
        "forwards_needed": steps * -(-len(ALPHAS) * len(SEEDS) // editor.max_batch),
    }


@contextmanager
def _counting(editor: Editor, eyes: VisionExtractor) -> Iterator[dict[str, int]]:
    """Calls of transformer, text encoder and vision tower in here."""
    counts = {"transformer": 0, "text encoder": 0, "vision tower": 0}

    def count(name: str) -> Callable[..., None]:
        def add(*_: Any) -> None:
            counts[name] += 1

        return add

    hooks = [
        editor.transformer.img_in.register_forward_hook(count("transformer")),
        editor.text_encoder.model.language_model.norm.register_forward_hook(count("text encoder")),
        eyes.model.visual.register_forward_hook(count("vision tower")),
    ]
    try:
        yield counts
    finally:
        for hook in hooks:
            hook.remove()


def _nine(pipeline: Any, prompt: str, steps: int, size: tuple[int, int]) -> None:
    for seed in SEEDS * len(ALPHAS):
        yardstick.generate(pipeline, prompt, negative_prompt=" ", seed=seed, steps=steps, true_cfg_scale=1.0, size=size)


def _timed(work: Callable[[], Any]) -> tuple[float, Any]:
    began = time.perf_counter()
    result = work()
    return time.perf_counter() - began, result


def _png(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def _uri(data: bytes, media_type: str) -> str:
    return f"data:{media_type};base64,{base64.b64encode(data).decode()}"


def told(result: Mapping[str, Any]) -> str:
    """One line for people."""
    calls = ", ".join(f"{count} of the {name}" for name, count in result["calls"].items())
    return (
        f"a 3 × 3 sweep takes {result['sweep_seconds']:.2f} s, nine pipeline calls {result['pipeline_seconds']:.2f} s: "
        f"{result['ratio']:.2f}; calls: {calls} ({result['forwards_needed']} forwards needed)"
    )
