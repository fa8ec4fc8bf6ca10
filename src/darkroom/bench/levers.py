"""Each of the engine's levers alone and all together, on the CPU: seconds, equality, calls and bytes, side by side.

Variants take turns within every round, so that whatever else the machine does falls on all of them.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from typing import Any

import numpy as np
from PIL.Image import Image
from torch import Tensor

from darkroom.bench.engine import PROMPTS, Case, counted, engine_edits
from darkroom.media import to_uint8
from darkroom.models.acceleration import Acceleration, Measurement, measure
from darkroom.models.cache import MIB, Encodings, TensorCache
from darkroom.models.editor import Editor
from darkroom.models.levers import Levers
from darkroom.models.placement import PARTS, shapes, weigh

ONE_EDIT = Case("one edit, 8 steps, CFG 4", PROMPTS[:1], 8, 4.0)
ACCELERATED_STEPS = 20
ACCELERATIONS: tuple[Acceleration, ...] = ("none", "cache", "aggressive")
KINDS = {"none": "exact", "fold": "exact", "lean": "rounding", "conv2d": "rounding", "every": "rounding"}


def with_levers(editor: Editor, levers: Levers, encodings: Encodings | None = None) -> Editor:
    """Another engine over the same parts; neither changes what the other computes."""
    return Editor(
        transformer=editor.transformer,
        vae=editor.vae,
        text_encoder=editor.text_encoder,
        processor=editor.processor,
        schedule=editor.schedule,
        areas=editor.areas,
        max_batch=editor.max_batch,
        vocabulary=editor.vocabulary,
        levers=levers,
        encodings=encodings,
    )


def single_levers(editor: Editor, images: Sequence[Image], rounds: int, case: Case = ONE_EDIT) -> dict[str, Any]:
    """No lever, each alone, and all that a worker pulls; ratios are to no lever. Compiling is left to a GPU."""
    names = [field.name for field in fields(Levers) if field.name != "compile"]
    levers = {
        "none": Levers.none(),
        **{name: Levers(**{name: True}) for name in names},
        "every": Levers.every("cpu"),
    }
    editors = {name: with_levers(editor, chosen) for name, chosen in levers.items()}
    outputs, calls = {}, {}
    for name, variant in editors.items():
        with counted(variant) as counts:
            outputs[name] = engine_edits(variant, images, case, seed=0)[0]
        calls[name] = dict(counts)
    seconds = in_turns({name: _edit(variant, images, case) for name, variant in editors.items()}, rounds)
    return {
        name: {
            "kind": KINDS[name],
            **timing(seconds[name]),
            "ratio": _ratio(seconds, name, "none"),
            "equality": difference(outputs[name], outputs["none"]),
            "forwards": calls[name]["transformer"],
            "encoder_calls": encoder_calls(calls[name]),
            "bytes_held": bytes_held(editor, folded=levers[name].fold),
        }
        for name in editors
    }


def second_edit(editor: Editor, images: Sequence[Image], rounds: int, case: Case = ONE_EDIT) -> dict[str, Any]:
    """The same edit once more, with encodings kept by content and without."""
    cached = with_levers(editor, editor.levers, Encodings(TensorCache(64 * MIB), "bench"))
    first = engine_edits(cached, images, case, seed=0)[0]
    with counted(cached) as counts:
        again = engine_edits(cached, images, case, seed=0)[0]
    seconds = in_turns({"uncached": _edit(editor, images, case), "cached": _edit(cached, images, case)}, rounds)
    with counted(editor) as uncached_counts:
        plain = engine_edits(editor, images, case, seed=0)[0]
    return {
        "kind": "exact",
        **{name: timing(values) for name, values in seconds.items()},
        "ratio": _ratio(seconds, "cached", "uncached"),
        "equality": difference(again, plain),
        "equal_to_first": bool((again == first).all()),
        "forwards": counts["transformer"],
        "encoder_calls": {"cached": encoder_calls(counts), "uncached": encoder_calls(uncached_counts)},
    }


def accelerations(
    editor: Editor, images: Sequence[Image], rounds: int, steps: int = ACCELERATED_STEPS
) -> dict[str, Any]:
    """`acceleration` by its values: steps computed, seconds of denoising, and the picture's distance from `none`."""
    conditioning = editor.condition(PROMPTS[:1], editor.reference(images))
    runs: dict[str, list[Measurement]] = {name: [] for name in ACCELERATIONS}
    for _ in range(rounds + 1):
        for name in ACCELERATIONS:
            runs[name].append(measure(editor, conditioning, name, steps=steps))
    seconds = {name: [run.seconds for run in found[1:]] for name, found in runs.items()}
    pictures = {name: eight_bits(found[0].pixels[0]) for name, found in runs.items()}
    return {
        name: {
            "kind": "exact" if name == "none" else "lossy",
            "steps": steps,
            **timing(seconds[name]),
            "ratio": _ratio(seconds, name, "none"),
            "equality": difference(pictures[name], pictures["none"]),
            "forwards": runs[name][0].computed,
        }
        for name in ACCELERATIONS
    }


def in_turns(runs: Mapping[str, Callable[[], Any]], rounds: int) -> dict[str, list[float]]:
    """Seconds of every run in every round, one after the other, after a round that is not counted."""
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for counted_round in range(rounds + 1):
        for name, run in runs.items():
            started = time.perf_counter()
            run()
            if counted_round:
                seconds[name].append(time.perf_counter() - started)
    return seconds


def timing(seconds: Sequence[float]) -> dict[str, float]:
    """Median and spread (largest less smallest)."""
    return {"median_seconds": statistics.median(seconds), "spread_seconds": max(seconds) - min(seconds)}


def difference(ours: np.ndarray, theirs: np.ndarray) -> dict[str, Any]:
    """Of 8-bit pictures: the largest difference in levels and the PSNR in dB, None where they are equal."""
    apart = ours.astype(float) - theirs.astype(float)
    error = float(np.mean(apart**2))
    return {
        "largest_difference_levels": int(np.abs(apart).max()),
        "psnr_db": 10 * math.log10(255**2 / error) if error else None,
    }


def encoder_calls(calls: Mapping[str, int]) -> int:
    """Of the vision tower, the text encoder and the VAE's encoder together."""
    return calls["vision"] + calls["text"] + calls["vae_encoder"]


def bytes_held(editor: Editor, *, folded: bool) -> int:
    """Weights on the device in float32; folded: without the modulation, whose tables take a few kilobytes."""
    weights = [weigh(part, shapes(getattr(editor, part)), "float32") for part in PARTS]
    return sum(weight.device + (0 if folded else weight.modulation) for weight in weights)


def eight_bits(pixels: Tensor) -> np.ndarray:
    """[3, H, W] in -1…1 -> [H, W, 3]."""
    return np.asarray(to_uint8(pixels))


def _edit(editor: Editor, images: Sequence[Image], case: Case) -> Callable[[], Any]:
    return lambda: engine_edits(editor, images, case, seed=0)


def _ratio(seconds: Mapping[str, Sequence[float]], name: str, to: str) -> float:
    return statistics.median(seconds[name]) / statistics.median(seconds[to])
