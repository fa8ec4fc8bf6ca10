"""The engine beside diffusers' pipeline: same weights, pictures, prompts, steps and seeds, in one process.

Runs alternate, so that whatever else the machine does falls on both; results are medians and their ratio.
Forwards and encoder calls are counted beside the seconds, and outputs are compared.
"""

from __future__ import annotations

import base64
import io
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL.Image import Image
from torch import Tensor

from darkroom.bench import yardstick
from darkroom.models.editor import Editor
from darkroom.technique.sampling import sample

PROMPTS = (
    "make the circle blue",
    "change the background to green",
    "remove the star",
    "make it black and white",
)
CLIENT_IMPORT = "import time; t = time.perf_counter(); import darkroom.client; print(time.perf_counter() - t)"


@dataclass(frozen=True)
class Case:
    """What both sides do: every prompt on the same pictures. bar: the most that engine / diffusers may be, if any."""

    name: str
    prompts: tuple[str, ...]
    steps: int
    true_cfg_scale: float
    bar: float | None = None


CASES = (
    Case("one edit, 8 steps, CFG 4", PROMPTS[:1], 8, 4.0, 0.8),
    Case("one edit, 4 steps, no CFG", PROMPTS[:1], 4, 1.0, 0.8),
    Case("four prompts on one photo, 8 steps, CFG 4", PROMPTS, 8, 4.0, 0.5),
)


def engine_edits(editor: Editor, images: Sequence[Image], case: Case, seed: int) -> list[np.ndarray]:
    """All of a case's edits in 8 bits as the engine makes them."""
    from darkroom.media import to_uint8

    return [np.asarray(to_uint8(pixels)) for pixels in engine_pixels(editor, images, case, seed)]


def engine_pixels(editor: Editor, images: Sequence[Image], case: Case, seed: int) -> Tensor:
    """[prompts, 3, H, W] in -1…1 on the device: pictures encoded once, prompts in one batch."""
    references = editor.reference(images)
    negative = " " if case.true_cfg_scale > 1 else None
    conditioning = editor.condition(case.prompts, references, negative)
    width, height = editor.output_size(references, None)
    latents = editor.noise([seed] * len(case.prompts), width, height)
    denoise = editor.denoiser(conditioning, width, height, case.true_cfg_scale)
    for step in sample(denoise, latents, editor.sigmas(case.steps, width, height)):
        latents = step.latents
    return editor.decode(latents, width, height)


def pipeline_edits(pipeline: Any, editor: Editor, images: Sequence[Image], case: Case, seed: int) -> list[np.ndarray]:
    """The same edits as separate calls of the pipeline, which takes one prompt at a time."""
    size = editor.native_size(*images[-1].size)
    return [
        yardstick.edit(
            pipeline, images, prompt, seed=seed, steps=case.steps, true_cfg_scale=case.true_cfg_scale, size=size
        )
        for prompt in case.prompts
    ]


def compare(
    editor: Editor, images: Sequence[Image], rounds: int = 7, cases: Sequence[Case] = CASES
) -> dict[str, Any]:
    """Every case on both sides, `rounds` times after one warm-up. Seconds are medians; spread is max - min."""
    pipeline = yardstick.pipeline_over(editor)
    return {"rounds": rounds, "cases": [_case(editor, pipeline, images, case, rounds) for case in cases]}


def client_import_seconds(rounds: int = 5) -> dict[str, Any]:
    """Seconds that `import darkroom.client` takes in a fresh process, and whether torch came along."""
    seconds = [float(_python(CLIENT_IMPORT)) for _ in range(rounds)]
    loaded = _python("import sys, darkroom.client; print('torch' in sys.modules)")
    return {"median_seconds": statistics.median(seconds), "spread_seconds": max(seconds) - min(seconds),
            "bar_seconds": 0.5, "loads_torch": loaded == "True"}  # fmt: skip


def first_job_seconds(image: Image, handler: Path, rounds: int = 3) -> dict[str, Any]:
    """Wall-clock seconds from starting a worker's process to the result of its first job, one short edit.

    The worker runs in the SDK's --test_input mode: process start, imports, model, job; no queue.
    """
    buffer = io.BytesIO()
    image.save(buffer, "JPEG")
    data = base64.b64encode(buffer.getvalue()).decode()
    job = {"images": [f"data:image/jpeg;base64,{data}"], "prompt": PROMPTS[0], "preset": "fast"}
    seconds = []
    # Results go to ./results of the working folder unless the settings name a store.
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(rounds):
            started = time.perf_counter()
            subprocess.run(
                [sys.executable, str(handler.resolve()), "--test_input", json.dumps({"input": job})],
                cwd=folder,
                check=True,
                capture_output=True,
            )
            seconds.append(time.perf_counter() - started)
    return {"median_seconds": statistics.median(seconds), "spread_seconds": max(seconds) - min(seconds),
            "bar_seconds": 20.0}  # fmt: skip


def missed(result: dict[str, Any]) -> list[str]:
    """The bars of a whole result that were not reached, as sentences."""
    slow = [
        f"{case['case']}: {case['ratio']:.2f} of diffusers' time, the bar is {case['bar']}"
        for case in result["cases"]
        if case["bar"] is not None and case["ratio"] > case["bar"]
    ]
    starts = [
        f"{name}: {result[name]['median_seconds']:.2f} s, the bar is {result[name]['bar_seconds']} s"
        for name in ("client_import", "worker_first_job")
        if name in result and result[name]["median_seconds"] > result[name]["bar_seconds"]
    ]
    return slow + starts


def _case(editor: Editor, pipeline: Any, images: Sequence[Image], case: Case, rounds: int) -> dict[str, Any]:
    sides: dict[str, Callable[[], list[np.ndarray]]] = {
        "engine": lambda: engine_edits(editor, images, case, seed=0),
        "diffusers": lambda: pipeline_edits(pipeline, editor, images, case, seed=0),
    }
    outputs, counts = {}, {}
    for name, run in sides.items():
        with counted(editor) as calls:
            outputs[name] = run()
        counts[name] = dict(calls)
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(rounds):
        for name, run in sides.items():
            started = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - started)
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    pairs = zip(outputs["engine"], outputs["diffusers"], strict=True)
    return {
        "case": case.name,
        "median_seconds": medians,
        "spread_seconds": {name: max(values) - min(values) for name, values in seconds.items()},
        "ratio": medians["engine"] / medians["diffusers"],
        "bar": case.bar,
        "calls": counts,
        "largest_difference_levels": max(int(np.abs(a.astype(int) - b.astype(int)).max()) for a, b in pairs),
    }


@contextmanager
def counted(editor: Editor) -> Any:
    """Counts forwards of the transformer and calls of every encoder and decoder inside the block."""
    parts = {
        # What every forward ends in, whoever's it is.
        "transformer": [editor.transformer.proj_out],
        "vision": [editor.text_encoder.model.visual],
        "text": [editor.text_encoder.model.language_model],
        # The pipeline uses the one form of the VAE, the engine the other.
        "vae_encoder": {editor.vae.encoder, editor.frame_vae.encoder},
        "vae_decoder": {editor.vae.decoder, editor.frame_vae.decoder},
    }
    calls = dict.fromkeys(parts, 0)

    def count(name: str) -> Callable[..., None]:
        def hook(*_: Any) -> None:
            calls[name] += 1

        return hook

    hooks = [part.register_forward_hook(count(name)) for name, alike in parts.items() for part in alike]
    try:
        yield calls
    finally:
        for hook in hooks:
            hook.remove()


def table(result: dict[str, Any]) -> str:
    """The cases as a Markdown table."""
    lines = [
        "| case | engine, s | diffusers, s | ratio | bar | forwards | looks | largest difference |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for case in result["cases"]:
        seconds, calls = case["median_seconds"], case["calls"]
        lines.append(
            f"| {case['case']} | {seconds['engine']:.3f} | {seconds['diffusers']:.3f} | {case['ratio']:.2f} | "
            f"≤ {case['bar']} | {calls['engine']['transformer']} / {calls['diffusers']['transformer']} | "
            f"{calls['engine']['vision']} / {calls['diffusers']['vision']} | "
            f"{case['largest_difference_levels']} of 255 |"
        )
    for name, label in (("client_import", "import of the client"), ("worker_first_job", "a worker to its first job")):
        if name in result:
            start = result[name]
            spread = start["spread_seconds"]
            lines.append(
                f"\n{label}: {start['median_seconds']:.2f} s (spread {spread:.2f} s), bar {start['bar_seconds']} s"
            )
    return "\n".join(lines)


def _python(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout.strip()
