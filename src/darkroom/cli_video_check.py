"""`darkroom video --self-test`: the parts of guidance on a small example, without a model."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import typer


def check() -> bool:
    """Try every part and print one line each; whether all of them do what they should."""
    good = True
    for name, passed, figure in _findings():
        colour = typer.colors.GREEN if passed else typer.colors.RED
        typer.secho(f"{'ok  ' if passed else 'FAIL'} {name}: {figure}", fg=colour)
        good = good and passed
    return good


def _findings() -> Iterator[tuple[str, bool, str]]:
    yield from _losses()
    yield _registration()
    yield from _guidance()
    yield _film()


def _picture(shift: int = 0) -> Any:
    """[1, 3, 64, 64] in -1…1: a soft-edged square on a ramp, the whole of it `shift` pixels to the right."""
    import torch

    y = torch.linspace(-1, 1, 64).expand(64, 64).T
    x = y.T - shift * 2 / 63
    square = torch.sigmoid(12 * (0.4 - x.abs())) * torch.sigmoid(12 * (0.4 - y.abs()))
    return torch.stack([square * 1.6 - 0.8, x * 0.4 + square * 0.3, y * 0.4 - square * 0.3])[None]


def _losses() -> Iterator[tuple[str, bool, str]]:
    import torch

    from darkroom.technique.losses import edge_loss, gram, gram_loss, motion_like
    from darkroom.technique.metrics import canny

    here, moved = _picture(), _picture(4)
    near, far = float(edge_loss(here, canny(here).float())), float(edge_loss(moved, canny(here).float()))
    yield "edge loss", near < far, f"{near:.4f} at its own edges, {far:.4f} four pixels beside them"
    same, other = float(gram_loss([here], [gram(here)])), float(gram_loss([here / 2], [gram(here)]))
    yield "Gram loss", same == 0 and other > 0, f"{same:.4f} against itself, {other:.4f} against half its contrast"
    flow = torch.zeros(1, 2, 64, 64)
    flow[:, 0] = -4
    left, plain = float(motion_like(here, flow)(moved)), float(motion_like(here)(moved))
    yield "temporal loss", left < 0.5 * plain, f"{left:.4f} along the flow, {plain:.4f} without"


def _registration() -> tuple[str, bool, str]:
    from darkroom.technique.registration import drift, undo

    here, moved = _picture(), _picture(1)
    found = drift(moved, here)
    error = float((undo(moved, found) - here).abs().mean()) / float((moved - here).abs().mean())
    return "registration", error < 0.5, f"{found.x:.2f} pixels found of 1, {error:.0%} of the difference left"


def _guidance() -> Iterator[tuple[str, bool, str]]:
    import torch
    from torch import Tensor

    from darkroom.technique.guidance import Term, guided
    from darkroom.technique.losses import edge_loss, edges_like
    from darkroom.technique.metrics import canny
    from darkroom.technique.sampling import Prediction, sample

    goal, sigmas = _picture(2), torch.linspace(1, 0, 9)
    edges = canny(_picture()).float()

    def denoise(x: Tensor, sigma: Tensor) -> Prediction:
        # The exact flow of a world that holds one picture: whatever x is, x0 is the goal.
        return Prediction((x - _tokens(goal)) / sigma)

    def decode(tokens: Tensor, size: int | None) -> Tensor:
        return tokens.transpose(1, 2).reshape(-1, 3, 64, 64)

    noise = torch.randn(_tokens(goal).shape, generator=torch.Generator().manual_seed(0))

    def end(scale: float) -> Tensor:
        term = Term("edge", edges_like(edges), scale, frozenset(range(4, 8)))
        steered = guided(denoise, [term], decode, sigmas, lr=0.05, iterations=2)
        latents = noise
        for step in sample(steered, noise, sigmas):
            # The last step lands on the goal whatever came before; what guidance did shows before it.
            latents = step.x0() if step.index == 7 else latents
        return decode(latents, None)

    off, on = end(0.0), end(1.0)
    plain = Term("edge", edges_like(edges), 0.0, frozenset(range(8)))
    untouched = guided(denoise, [plain], decode, sigmas, lr=0.05) is denoise
    yield "scale 0", untouched, "the denoiser itself" if untouched else "a changed denoiser"
    before, after = float(edge_loss(off, edges)), float(edge_loss(on, edges))
    yield "guidance", after < before, f"edge loss {before:.4f} without, {after:.4f} with"


def _tokens(pixels: Any) -> Any:
    return pixels.flatten(2).transpose(1, 2)


def _film() -> tuple[str, bool, str]:
    from darkroom.jobs import Limits
    from darkroom.media import Video, to_uint8, write_mp4

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "clip.mp4"
        write_mp4(path, [to_uint8(_picture(shift)[0]) for shift in range(5)], Fraction(5))
        video = Video(path, "clip", Limits(), 100)
        count = len(list(video.frames()))
    return "video", count == 5 and video.fps == Fraction(5), f"{count} frames of 5 read back at {video.fps} per second"
