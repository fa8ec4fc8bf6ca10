"""A sweep beside separate calls of diffusers' pipeline for the same pictures: seconds, and calls counted."""

from __future__ import annotations

import base64
import io
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from darkroom.bench import yardstick
from darkroom.bench.injection import Run
from darkroom.models import heads
from darkroom.models.editor import Editor
from darkroom.models.heads import Head
from darkroom.models.slots import MARK, Slotted, slot_places
from darkroom.models.vision import VisionExtractor
from darkroom.technique.injection import HeadConfig, InjectionHead, inject

ALPHAS, SEEDS = (0.5, 1.0, 1.5), (1, 2, 3)


def compare(
    photo: Image.Image, editor: Editor, eyes: VisionExtractor, run: Run, steps: int = 8, rounds: int = 3
) -> dict[str, Any]:
    """Medians of a 3 × 3 sweep, as a whole job from request to stored files, and of nine calls of the pipeline.

    Each of the nine looks at the photo, reads the prompt and injects by itself, as whoever has only the pipeline must.
    The photo differs from round to round by one pixel, so that no cache helps; a first round is not counted.
    Seconds are the clock's; cpu_seconds the process's own, which a busy machine leaves alone. making: of the sweep's
    clock, what encoding, denoising and decoding took; the rest judges, draws curves and stores, which the nine do not.
    """
    head = heads.untrained(
        HeadConfig(eyes.hidden_size, eyes.levels + 1, editor.text_encoder.config.text_config.hidden_size), 0
    )
    pipeline = yardstick.generator_over(editor)
    fresh = VisionExtractor(eyes.model, eyes.image_processor, eyes.tokenizer)
    results: dict[str, list[tuple[float, float]]] = {"sweep": [], "pipeline": []}
    making: list[float] = []
    for number in range(rounds + 1):
        photo.putpixel((0, 0), (number, 0, 0))
        job = _job(photo, head, steps, number)
        with _counting(editor, eyes) as counted:
            ours, (reply, folder) = _timed(partial(run, f"speed-{number}", job))
        theirs, pictures = _timed(partial(_nine, pipeline, editor, fresh, head, photo, job, reply))
        difference = max(_difference(folder, cell, picture) for cell, picture in pictures.items())
        if number:
            results["sweep"].append(ours)
            results["pipeline"].append(theirs)
            making.append(sum(reply["timings"][f"{phase}_ms"] for phase in ("encode", "denoise", "decode")) / 1000)
    clock, cpu = (
        {name: statistics.median(pair[i] for pair in pairs) for name, pairs in results.items()} for i in (0, 1)
    )
    return {
        "seconds": clock,
        "cpu_seconds": cpu,
        "ratio": clock["sweep"] / clock["pipeline"],
        "cpu_ratio": cpu["sweep"] / cpu["pipeline"],
        "making": statistics.median(making),
        "making_ratio": statistics.median(making) / clock["pipeline"],
        "rounds": results,
        "steps": steps,
        "calls": dict(counted),
        "forwards_needed": steps * -(-len(ALPHAS) * len(SEEDS) // editor.max_batch),
        "largest_difference": difference,
    }


def _job(photo: Image.Image, head: InjectionHead, steps: int, number: int) -> dict[str, Any]:
    return {
        "type": "injection_sweep",
        "photos": [_uri(_png(photo), "image/png")],
        "head": _uri(heads.to_bytes(Head(head)), "application/octet-stream"),
        "alphas": list(ALPHAS),
        "gen_seeds": list(SEEDS),
        "steps": steps,
        "guidance": 1.0,
        "controls": False,
        "base_prompt": f"a portrait of {MARK} number {number}",
    }


@torch.no_grad()
def _nine(
    pipeline: Any, editor: Editor, eyes: VisionExtractor, head: InjectionHead, photo: Image.Image,
    job: Mapping[str, Any], reply: Mapping[str, Any],
) -> dict[tuple[float, int], np.ndarray]:  # fmt: skip
    """(α, seed) -> [H, W, 3] in 8 bits."""
    gain = editor.transformer.txt_norm.weight.float()
    places = slot_places(Slotted.of(job["base_prompt"], editor), editor, head.config.slots)
    pictures = {}
    for alpha in ALPHAS:
        for seed in SEEDS:
            sight = eyes.look(photo, pixels=448 * 448)
            residual = head(torch.stack([*sight.levels, sight.final]).float())
            embeds, _ = pipeline.encode_prompt(reply["prompt"])
            result = pipeline(
                prompt_embeds=inject(embeds[0], residual, places, alpha, gain)[None],
                prompt_embeds_mask=torch.ones(embeds.shape[:2], dtype=torch.long),
                true_cfg_scale=1.0,
                num_inference_steps=job["steps"],
                width=reply["parameters"]["width"],
                height=reply["parameters"]["height"],
                generator=torch.Generator().manual_seed(seed),
            )
            pictures[alpha, seed] = np.asarray(result.images[0])
    return pictures


def _difference(folder: Path, cell: tuple[float, int], picture: np.ndarray) -> int:
    with Image.open(folder / f"cells/photo_a{cell[0]:g}_s{cell[1]}.png") as ours:
        return int(np.abs(np.asarray(ours).astype(int) - picture.astype(int)).max())


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


def _timed(work: Callable[[], Any]) -> tuple[tuple[float, float], Any]:
    """((seconds by the clock, seconds of the processor), result)."""
    clock, cpu = time.perf_counter(), time.process_time()
    result = work()
    return (time.perf_counter() - clock, time.process_time() - cpu), result


def _png(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def _uri(data: bytes, media_type: str) -> str:
    return f"data:{media_type};base64,{base64.b64encode(data).decode()}"


def told(result: Mapping[str, Any]) -> str:
    """One line for people."""
    calls = ", ".join(f"{count} of the {name}" for name, count in result["calls"].items())
    seconds, cpu = result["seconds"], result["cpu_seconds"]
    return (
        f"a 3 × 3 sweep takes {seconds['sweep']:.2f} s, nine pipeline calls {seconds['pipeline']:.2f} s: "
        f"{result['ratio']:.2f} (processor time {cpu['sweep']:.2f} s and {cpu['pipeline']:.2f} s: "
        f"{result['cpu_ratio']:.2f}); its pictures alone {result['making']:.2f} s: {result['making_ratio']:.2f}; "
        f"calls: {calls} ({result['forwards_needed']} forwards needed); "
        f"pictures differ by at most {result['largest_difference']} of 255"
    )
