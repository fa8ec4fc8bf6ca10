"""One variant: built, warmed up, timed per forward and per edit, weighed, and held against the baseline's output."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from PIL.Image import Image
from torch import Tensor

from darkroom.bench import yardstick
from darkroom.bench.engine import Case, counted, engine_pixels, pipeline_edits
from darkroom.bench.gpu.clock import GIB, once, release, timed, used_gib
from darkroom.bench.gpu.family import random_family
from darkroom.bench.gpu.flops import forward_flops
from darkroom.bench.gpu.size import Size
from darkroom.bench.gpu.variants import Variant
from darkroom.bench.picture import reference_card
from darkroom.models.editor import Editor
from darkroom.models.placement import PARTS, occupied_bytes
from darkroom.technique.sampling import Denoise
from darkroom.technique.schedule import Schedule

SCHEDULE = Schedule(0.5, 0.9, 256, 8192, 0.02)
"""Qwen-Image-Edit-2511's."""
SIGMA = 0.5
STEPS = (4, 8)
WORDS = ("make", "the", "circle", "blue", "and", "remove", "the", "small", "green", "star")


@dataclass
class Run:
    """What all sections of one benchmark share. `velocity`, `pixels` and `seconds` are the baseline's."""

    size: Size
    rate: float | None = None
    velocity: Tensor | None = None
    pixels: np.ndarray | None = None
    seconds: dict[str, float] = field(default_factory=dict)

    @property
    def device(self) -> torch.device:
        """Where everything runs."""
        return torch.device(self.size.device)

    @property
    def picture(self) -> Image:
        """What is edited."""
        return reference_card(self.size.reference)

    @property
    def prompt(self) -> str:
        """As many words as the size asks for."""
        return " ".join(WORDS[i % len(WORDS)] for i in range(self.size.words))

    def case(self, steps: int, true_cfg_scale: float) -> Case:
        """One edit of the picture."""
        return Case(f"{steps} steps, CFG {true_cfg_scale:g}", (self.prompt,), steps, true_cfg_scale)


def editor_of(run: Run, variant: Variant) -> Editor:
    """An engine over a fresh family; nothing else is on the device."""
    release(run.device)
    parts = random_family(run.size, variant.precision, lean=not variant.diffusers, folded=variant.levers.fold)
    return Editor(
        **parts, schedule=SCHEDULE, areas=run.size.areas, levers=variant.levers, attention=variant.attention
    )


@torch.no_grad()
def measure(run: Run, variant: Variant) -> dict[str, Any]:
    """Everything about one variant, as JSON values. The baseline's output and seconds are kept in `run`."""
    build_seconds, editor = once(lambda: editor_of(run, variant), run.device)
    edit = _edit_of(run, variant, editor)
    # Both prompts' lengths once, so that whatever compiles or picks kernels has seen all shapes.
    first_seconds, _ = once(lambda: edit(run.case(2, 4.0)), run.device)
    forward, tokens = forward_of(run, editor)
    velocity = forward()
    forwards = timed(forward, run.device, run.size.rounds)
    release(run.device)
    with counted(editor) as calls:
        pixels = edit(run.case(4, 1.0))[0]
    peak_gib = used_gib(run.device)
    edits = run.size.edits if variant.whole else 1
    fours = timed(lambda: edit(run.case(4, 1.0)), run.device, edits)
    eights = timed(lambda: edit(run.case(8, 4.0)), run.device, edits)
    seconds = {"forward": forwards.median, "edit_4": fours.median, "edit_8_cfg": eights.median}
    work = forward_flops(run.size.transformer, *tokens)
    rate = work / forwards.median
    said = {
        "kind": variant.kind,
        "levers": vars(variant.levers),
        "precision": variant.precision,
        "attention": variant.attention,
        "problem": editor.forward.problem,
        "forward": forwards.as_json(),
        "tflop": work / 1e12,
        "tflop_per_second": rate / 1e12,
        "share_of_matrix_rate": None if run.rate is None else rate / run.rate,
        "edit_8_cfg": eights.as_json(),
        "edit_4": fours.as_json(),
        "ratio": {name: run.seconds[name] / ours for name, ours in seconds.items()} if run.seconds else None,
        "equality": equality(velocity, run.velocity, variant.bound_db),
        "pixels_psnr_db": psnr(pixels, run.pixels),
        "calls_edit_4": dict(calls),
        "weights_gib": {part: occupied_bytes(getattr(editor, part)) / GIB for part in PARTS},
        "device_peak_gib": peak_gib,
        "build_seconds": build_seconds,
        "first_edit_seconds": first_seconds,
    }
    if variant.diffusers and run.velocity is None:
        run.velocity, run.pixels, run.seconds = velocity, pixels, seconds
    return said


def equality(ours: Tensor, theirs: Tensor | None, bound_db: float) -> dict[str, Any] | None:
    """Largest difference, the reference's RMS, and the signal-to-noise ratio in dB (None where equal)."""
    if theirs is None:
        return None
    ours, theirs = ours.double().cpu(), theirs.double().cpu()
    noise, signal = (ours - theirs).square().mean().sqrt().item(), theirs.square().mean().sqrt().item()
    # Written so that NaN is outside.
    snr_db = 20 * math.log10(signal / noise) if noise > 0 else None
    return {
        "max_abs": float((ours - theirs).abs().max()),
        "reference_rms": signal,
        "snr_db": snr_db,
        "bound_db": bound_db,
        "within": bool(noise <= signal * 10 ** (-bound_db / 20)),
    }


def psnr(ours: np.ndarray, theirs: np.ndarray | None) -> float | None:
    """Peak signal-to-noise ratio of 8-bit pixels in dB; None where they are equal or there is nothing to compare."""
    if theirs is None:
        return None
    error = float(np.mean((ours.astype(float) - theirs.astype(float)) ** 2))
    return 10 * math.log10(255**2 / error) if error > 0 else None


def eight_bits(pixels: Tensor) -> np.ndarray:
    """[3, H, W] in -1…1 -> [H, W, 3] on the CPU, without the libraries that `darkroom.media` needs."""
    return np.asarray(((pixels * 0.5 + 0.5).clamp(0, 1) * 255).round().byte().permute(1, 2, 0).cpu())


def _edit_of(run: Run, variant: Variant, editor: Editor) -> Callable[[Case], list[np.ndarray]]:
    """A whole edit from the picture to 8-bit pixels on the CPU, by the pipeline or by the engine."""
    if not variant.diffusers:
        return lambda case: [eight_bits(pixels) for pixels in engine_pixels(editor, [run.picture], case, seed=0)]
    pipeline = yardstick.pipeline_over(editor)
    return lambda case: pipeline_edits(pipeline, editor, [run.picture], case, seed=0)


def forward_of(run: Run, editor: Editor) -> tuple[Callable[[], Tensor], tuple[int, int]]:
    """One forward of the transformer at a fixed noise level, and its tokens (image, text)."""
    references = editor.reference([run.picture])
    conditioning = editor.condition([run.prompt], references)
    size = editor.output_size(references, None)
    denoise: Denoise = editor.denoiser(conditioning, *size)
    noise, sigma = editor.noise([0], *size), torch.tensor(SIGMA)
    # A schedule's modulation table is made once in a worker's life: before the clock runs.
    for steps in STEPS:
        denoise(noise, editor.sigmas(steps, *size)[0])
    tokens = (noise.shape[1] + references.latents.shape[1], len(conditioning.prompts[0]))
    return lambda: denoise(noise, sigma).velocity, tokens
