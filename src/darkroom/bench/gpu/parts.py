"""What is not a whole variant: the matrix rate, attention backends, the VAE, and a guided step."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from darkroom.bench.gpu.clock import Timed, once, release, timed, used_gib
from darkroom.bench.gpu.family import processor_of, random_part
from darkroom.bench.gpu.measures import SCHEDULE, SIGMA, Run, editor_of, equality, forward_of
from darkroom.bench.gpu.variants import BASELINE, ROUNDING_DB
from darkroom.models.differentiable import guiding_decoder
from darkroom.models.editor import TOKEN_PIXELS, Editor
from darkroom.models.levers import Levers
from darkroom.technique.guidance import Decode, GuidedStep, Term, guided
from darkroom.technique.latents import denormalise, unpack
from darkroom.technique.sampling import Prediction

BACKENDS = ("native", "_native_cudnn", "_native_flash", "_native_efficient", "flash", "_flash_3")
"""diffusers' names; those whose package is not installed, or that the device refuses, say so."""


@torch.no_grad()
def matrix_rate(run: Run) -> dict[str, Any]:
    """A square product of random bf16 matrices: what the shares of all forwards refer to."""
    left, right = _matrices(run)
    said = _rate(lambda: left @ right, run)
    run.rate = said["tflop_per_second"] * 1e12
    return said


@torch.no_grad()
def fp8_rate(run: Run) -> dict[str, Any]:
    """The same product in FP8 with a scale per row and column, as the FP8 variants multiply."""
    left, right = (matrix.to(torch.float8_e4m3fn) for matrix in _matrices(run))
    # The second factor lies column by column, as the kernel asks.
    right, ones = right.t().contiguous().t(), torch.ones(len(left), 1, device=run.device)
    return _rate(
        lambda: torch._scaled_mm(left, right, ones, ones.t(), out_dtype=torch.bfloat16, use_fast_accum=True), run
    )


@torch.no_grad()
def attention(run: Run) -> dict[str, Any]:
    """diffusers' own transformer by each of its attention backends: seconds per forward and equality."""
    editor = editor_of(run, BASELINE)
    forward, _ = forward_of(run, editor)
    reference, found = forward(), {}
    try:
        for name in BACKENDS:
            found[name] = _with_backend(editor, name, forward, reference, run)
    finally:
        # diffusers keeps the choice for the whole process.
        editor.transformer.set_attention_backend(BACKENDS[0])
    return {"backends": found}


def _with_backend(
    editor: Editor, name: str, forward: Callable[[], Tensor], reference: Tensor, run: Run
) -> dict[str, Any]:
    try:
        editor.transformer.set_attention_backend(name)
        result = forward()
    except (ImportError, RuntimeError, ValueError) as error:
        return {"status": "failed", "reason": f"{type(error).__name__}: {str(error).strip().splitlines()[0][:200]}"}
    seconds = timed(forward, run.device, run.size.rounds)
    return {"status": "measured", **seconds.as_json(), "equality": equality(result, reference, ROUNDING_DB)}


@torch.no_grad()
def vae(run: Run) -> dict[str, Any]:
    """Encode and decode one picture by diffusers' VAE and by the 2-D one; peaks hold both, and no transformer."""
    plain, flat = _vae_only(run, Levers.none()), _vae_only(run, Levers(conv2d=True))
    side = run.size.reference // TOKEN_PIXELS
    pixels = _drawn((1, 3, run.size.reference, run.size.reference), run).clamp(-1, 1)
    tokens = _drawn((1, side * side, 64), run)
    found: dict[str, Any] = {}
    for name, editor in (("conv3d", plain), ("conv2d", flat)):
        found[name] = {
            "encode": _with_peak(partial(editor.encode, pixels), run),
            "decode": _with_peak(partial(editor.decode, tokens, *pixels.shape[:1:-1]), run),
        }
    decoded = [editor.decode(tokens, *pixels.shape[:1:-1]) for editor in (flat, plain)]
    ratio = {
        way: found["conv3d"][way]["median_seconds"] / found["conv2d"][way]["median_seconds"]
        for way in ("encode", "decode")
    }
    equal = {
        "encode": equality(flat.encode(pixels), plain.encode(pixels), ROUNDING_DB),
        "decode": equality(decoded[0], decoded[1], ROUNDING_DB),
    }
    return {**found, "ratio": ratio, "equality": equal}


def guided_step(run: Run) -> dict[str, Any]:
    """x0 -> decode -> loss -> gradient at x0, as TTLG takes it and by the plain decoder without checkpoints."""
    editor = _vae_only(run, Levers(conv2d=True))
    side = run.size.reference // TOKEN_PIXELS
    noise = _drawn((1, side * side, 64), run)
    ways: dict[str, Decode] = {
        "guided": guiding_decoder(editor, run.size.reference, run.size.reference),
        "plain": _plain_decoder(editor, side),
    }
    found: dict[str, Any] = {}
    shifts: dict[str, Tensor] = {}
    for name, decode in ways.items():
        try:
            found[name], shifts[name] = _guided(decode, noise, run)
        except torch.OutOfMemoryError:
            found[name] = {"status": "failed", "reason": "out of memory"}
    both = len(shifts) == len(ways)
    return {
        **found,
        "ratio": found["plain"]["median_seconds"] / found["guided"]["median_seconds"] if both else None,
        "equality": equality(shifts["guided"], shifts["plain"], ROUNDING_DB) if both else None,
    }


def _guided(decode: Decode, noise: Tensor, run: Run) -> tuple[dict[str, Any], Tensor]:
    steps: list[GuidedStep] = []
    sigmas = torch.tensor([1.0, SIGMA, 0.0], device=run.device)
    target = _drawn((1, 3, run.size.reference, run.size.reference), run).clamp(-1, 1)
    term = Term("l1", lambda pixels: (pixels - target).abs().mean(dim=(1, 2, 3)), 1.0, frozenset({1}))
    denoise = guided(
        lambda x, sigma: Prediction(torch.zeros_like(x)), [term], decode, sigmas, lr=0.05, report=steps.append
    )
    shift = denoise(noise, sigmas[1]).shift
    release(run.device)
    for _ in range(3):
        denoise(noise, sigmas[1])
    assert shift is not None
    seconds = Timed(tuple(step.seconds for step in steps[1:]))
    return {**seconds.as_json(), "device_peak_gib": used_gib(run.device)}, shift


def _plain_decoder(editor: Editor, side: int) -> Decode:
    """diffusers' decoder as it is, for gradients: everything kept for the way back."""
    mean, std = (torch.tensor(editor.vae.config[name]) for name in ("latents_mean", "latents_std"))

    def decode(tokens: Tensor, size: int | None) -> Tensor:
        latents = unpack(tokens, side, side).to(editor.dtype)
        latents = denormalise(latents, mean.to(latents), std.to(latents))
        return torch.as_tensor(editor.vae.decoder(editor.vae.post_quant_conv(latents))[:, :, 0].float())

    return decode


def _vae_only(run: Run, levers: Levers) -> Editor:
    """An editor whose other parts are those of a miniature: nothing but the VAE takes room."""
    from darkroom.bench.gpu.size import SMALL

    release(run.device)
    processor = processor_of(run.size)
    others = {
        part: random_part(SMALL, part, processor.tokenizer, "bf16", lean=True).to(run.device)
        for part in ("transformer", "text_encoder")
    }
    own = random_part(run.size, "vae", processor.tokenizer, "bf16", lean=True)
    levers = Levers(conv2d=levers.conv2d)
    return Editor(**others, vae=own, processor=processor, schedule=SCHEDULE, areas=run.size.areas, levers=levers)


def _drawn(shape: tuple[int, ...], run: Run) -> Tensor:
    """Normal values, the same whenever they are drawn."""
    return torch.randn(shape, generator=torch.Generator(run.device).manual_seed(0), device=run.device)


def _with_peak(work: Callable[[], Any], run: Run) -> dict[str, Any]:
    work()
    release(run.device)
    seconds = timed(work, run.device, 3)
    return {**seconds.as_json(), "device_peak_gib": used_gib(run.device)}


def _matrices(run: Run) -> tuple[Tensor, Tensor]:
    shape = (run.size.matrix, run.size.matrix)
    left, right = (torch.randn(shape, device=run.device, dtype=torch.bfloat16) for _ in range(2))
    return left, right


def _rate(product: Callable[[], Tensor], run: Run, runs: int = 7, products: int = 10) -> dict[str, Any]:
    """Seconds of one product, from `runs` times `products` in a row: a clock's start and end cost nothing so."""

    def several() -> None:
        for _ in range(products):
            product()

    once(several, run.device)
    found = Timed(tuple(seconds / products for seconds in timed(several, run.device, runs).seconds))
    work = 2 * run.size.matrix**3
    return {"rows": run.size.matrix, "tflop_per_second": work / found.median / 1e12, **found.as_json()}
