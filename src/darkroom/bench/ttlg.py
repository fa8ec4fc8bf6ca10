"""What guidance brings: the same clips, seeds and model without it, with the original's and with ours.

Clips are drawn, so the true frames, their motion and what is hidden are known exactly. Guidance sees the edge maps, the
init frame and a flow estimated from the source; the rulers here compare with the true frames and the exact flow.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from PIL import Image
from torch import Tensor

from darkroom.bench.ttlg_original import Original, original_guidance
from darkroom.models.differentiable import guiding_decoder, recomputing
from darkroom.models.editor import Editor
from darkroom.models.optical_flow import OpticalFlow, flow_and_mask
from darkroom.models.perceptual import Perceptual
from darkroom.pocket.world.clips import Clip, draw_clip, draw_people_clip
from darkroom.pocket.world.edges import edge_map
from darkroom.pocket.world.follow import FOLLOW
from darkroom.technique.guidance import GuidedStep, Term, Through, guided
from darkroom.technique.latents import pack
from darkroom.technique.losses import edges_like, gram_loss, motion_like, style_like
from darkroom.technique.losses import gram as gram_matrix
from darkroom.technique.metrics import canny, edge_f1, warp_error
from darkroom.technique.sampling import Denoise, sample
from darkroom.technique.windows import WINDOWS, Window, guided_steps

HELD_OUT = (9, 2026)
"""Where the study's clips come from; no training stage draws from this stream."""

WINDOWINGS: Mapping[str, Mapping[str, Window]] = {
    "default": WINDOWS,
    "early": dict.fromkeys(WINDOWS, Window(1.0, 0.5)),
    "late": dict.fromkeys(WINDOWS, Window(0.5, 0.02)),
    "all": dict.fromkeys(WINDOWS, Window(1.0, 0.0)),
}

Report = Callable[[str], None]


@dataclass(frozen=True)
class Ours:
    """Settings of technique.guidance, under the job's names; scales of 0 leave a loss out."""

    edge_scale: float = 1.0
    gram_scale: float = 0.2
    temporal_scale: float = 0.5
    lr: float = 0.03
    iterations: int = 2
    window: str = "default"
    through: Through = "vae"


@dataclass(frozen=True)
class Variant:
    """One column of the study; without guidance it is the model's own edge conditioning."""

    name: str
    guidance: Ours | Original | None = None


@dataclass(frozen=True)
class Plan:
    """Clips of `frames` frames after the init frame, one per seed, and how each frame is made.

    `people`: a person moves in each of them, and not shapes alone.
    """

    seeds: int = 5
    frames: int = 6
    steps: int = 8
    true_cfg_scale: float = 1.0
    size: tuple[int, int] = (128, 128)
    prompt: str = FOLLOW[0]
    people: bool = False
    variants: tuple[Variant, ...] = field(default_factory=lambda: variants(quick=True))


def variants(quick: bool) -> tuple[Variant, ...]:
    """The comparison, then the ablation around our defaults: one knob at a time and one pair, and unless quick every
    combination of lr, window, iterations and through.
    """
    ours = Ours()
    silent = replace(ours, edge_scale=0.0, gram_scale=0.0, temporal_scale=0.0)
    compared = [
        Variant("off"),
        Variant("original", Original()),
        Variant("edge alone", replace(silent, edge_scale=1.0)),
        Variant("gram alone", replace(silent, gram_scale=1.0)),
        Variant("temporal alone", replace(silent, temporal_scale=1.0)),
        Variant("all", ours),
    ]
    knobs: dict[str, tuple[Any, ...]] = {
        "lr": (0.015, 0.03, 0.06),
        "temporal_scale": (0.25, 0.5, 1.0),
        "window": tuple(WINDOWINGS),
        "iterations": (1, 2, 4),
        "through": ("vae", "transformer"),
    }
    settings = [replace(ours, **{knob: value}) for knob, values in knobs.items() for value in values]
    # Two that help together: what a smaller temporal loss steadies, more iterations can descend further.
    settings.append(replace(ours, iterations=4, temporal_scale=0.25))
    if not quick:
        settings += [
            Ours(lr=lr, window=window, iterations=count, through=through)
            for lr in knobs["lr"]
            for window in knobs["window"]
            for count in knobs["iterations"]
            for through in knobs["through"]
        ]
    ablation = [Variant(_name(chosen), chosen) for chosen in dict.fromkeys(settings) if chosen != ours]
    return (*compared, *ablation)


def study(
    plan: Plan, editor: Editor, perceptual: Perceptual, optical_flow: OpticalFlow, out: Path, report: Report
) -> list[dict[str, Any]]:
    """Run every cell that `out` does not hold yet; one row per variant, seed and frame, the VAE's floor among them.

    A cell is one variant on one clip. Its rows lie in out/cells as JSON under a name that its settings and the model's
    weights give, so that a study goes on where it stopped and never mixes two models.
    """
    bench = _Bench(plan, editor, perceptual, optical_flow)
    stamp, rows = _weights(editor), list[dict[str, Any]]()
    for number, (variant, seed) in enumerate(
        (variant, seed) for seed in range(plan.seeds) for variant in (Variant("floor"), *plan.variants)
    ):
        path = out / "cells" / f"{_key(plan, variant, seed, stamp)}.json"
        if not path.exists():
            made = (
                bench.floor(seed, out / "frames")
                if variant.name == "floor"
                else bench.run(variant, seed, out / "frames")
            )
            _write(path, [{"variant": variant.name, "seed": seed, **row} for row in made])
            report(f"{number + 1}/{plan.seeds * (len(plan.variants) + 1)} {variant.name}, clip {seed}")
        rows += json.loads(path.read_text())
    return rows


class _Bench:
    """The models, and what is known of each clip."""

    def __init__(self, plan: Plan, editor: Editor, perceptual: Perceptual, optical_flow: OpticalFlow) -> None:
        self.plan, self.editor, self.perceptual, self.optical_flow = plan, editor, perceptual, optical_flow

    def floor(self, seed: int, folder: Path) -> list[dict[str, Any]]:
        """The true frames through the VAE and back: what no guidance through this VAE can beat."""
        clip, rows, previous = self._clip(seed), [], None
        for t in range(1, self.plan.frames + 1):
            truth = _tensor(clip.frame(t))
            self._keep(truth, "true", seed, t, folder)
            frame = _stored(self.editor.decode(pack(self.editor.encode(truth)), *self.plan.size))
            rows.append(self._measured(clip, t, frame, previous if previous is not None else _tensor(clip.frame(0))))
            previous = frame
        return rows

    def run(self, variant: Variant, seed: int, folder: Path) -> list[dict[str, Any]]:
        """A clip, frame after frame, each made from the one before it as it would be stored."""
        clip, rows = self._clip(seed), []
        init = previous = _stored(_tensor(clip.frame(0)))
        for t in range(1, self.plan.frames + 1):
            steps: list[GuidedStep] = []
            started = time.perf_counter()
            frame = _stored(self._frame(variant, clip, t, init, previous, seed, steps.append))
            seconds = time.perf_counter() - started
            row = self._measured(clip, t, frame, previous)
            if isinstance(variant.guidance, Ours):
                row["guidance_seconds"] = sum(step.seconds for step in steps)
            rows.append({**row, "seconds": seconds, "steps": [_plain(step) for step in steps]})
            self._keep(frame, variant.name, seed, t, folder)
            previous = frame
        return rows

    def _keep(self, frame: Tensor, name: str, seed: int, t: int, folder: Path) -> None:
        """The first clip's frames as files, for the sheet."""
        if seed == 0:
            path = folder / name.replace(" ", "_") / f"frame_{t:04d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            _image(frame).save(path)

    def _clip(self, seed: int) -> Clip:
        width, height = self.plan.size
        rng, frames = np.random.default_rng((*HELD_OUT, seed)), self.plan.frames + 1
        if self.plan.people:
            return draw_people_clip(rng, frames, width, height, steady_light=True)
        return draw_clip(rng, frames, width, height)

    def _frame(
        self,
        variant: Variant,
        clip: Clip,
        t: int,
        init: Tensor,
        previous: Tensor,
        seed: int,
        report: Callable[[GuidedStep], None],
    ) -> Tensor:
        """[1, 3, H, W] in -1…1: frame `t` from its edges, the init frame and the frame before."""
        editor, plan = self.editor, self.plan
        width, height = plan.size
        edges = edge_map(clip.frame(t))
        references = editor.reference([_picture(edges), _image(init), _image(previous)])
        negative = " " if plan.true_cfg_scale > 1 else None
        conditioning = editor.condition([plan.prompt], references, negative)
        sigmas = editor.sigmas(plan.steps, width, height)
        denoise = editor.denoiser(conditioning, width, height, plan.true_cfg_scale)
        lines = torch.from_numpy(edges[..., :1]).permute(2, 0, 1)[None]
        if isinstance(variant.guidance, Original):
            settings = replace(variant.guidance, last_steps=min(variant.guidance.last_steps, plan.steps))
            denoise = original_guidance(denoise, settings, editor, self.perceptual, lines, init, sigmas)
        elif isinstance(variant.guidance, Ours):
            terms = self._terms(variant.guidance, clip, t, lines, init, previous, sigmas)
            denoise = self._guided(denoise, variant.guidance, terms, sigmas, report)
        latents = editor.noise([1_000 * seed + t], width, height)
        for step in sample(denoise, latents, sigmas):
            latents = step.latents
        return editor.decode(latents, width, height)

    def _guided(
        self, denoise: Denoise, ours: Ours, terms: list[Term], sigmas: Tensor, report: Callable[[GuidedStep], None]
    ) -> Denoise:
        inner = recomputing(self.editor, denoise) if ours.through == "transformer" else denoise
        decode = guiding_decoder(self.editor, *self.plan.size)
        return guided(
            inner, terms, decode, sigmas, lr=ours.lr, iterations=ours.iterations, through=ours.through, report=report
        )

    def _terms(
        self, ours: Ours, clip: Clip, t: int, edges: Tensor, init: Tensor, previous: Tensor, sigmas: Tensor
    ) -> list[Term]:
        windows = {name: guided_steps(sigmas, window) for name, window in WINDOWINGS[ours.window].items()}
        flow, mask = flow_and_mask(self.optical_flow, _tensor(clip.frame(t)), _tensor(clip.frame(t - 1)))
        return [
            Term("edge", edges_like(edges), ours.edge_scale, windows["edge"]),
            Term("gram", style_like(init, self.perceptual.features), ours.gram_scale, windows["gram"]),
            Term("temporal", motion_like(previous, flow, mask), ours.temporal_scale, windows["temporal"]),
        ]

    @torch.no_grad()
    def _measured(self, clip: Clip, t: int, frame: Tensor, previous: Tensor) -> dict[str, Any]:
        """The rulers, against the true frame and the exact flow."""
        truth, before, init = (_tensor(clip.frame(at)) for at in (t, t - 1, 0))
        flow = torch.from_numpy(clip.flow(t)).permute(2, 0, 1)[None]
        seen = torch.from_numpy(clip.visible(t).astype(np.float32))[None, None]
        features, distance = self.perceptual.features, self.perceptual.distance
        wanted = {
            name: [gram_matrix(tap) for tap in features(image)] for name, image in (("true", truth), ("init", init))
        }
        found = features(frame)
        return {
            "frame": t,
            "edge_error": _slope_error(frame, truth),
            "edge_f1": edge_f1(canny(frame), canny(truth)),
            "lpips_to_true": float(distance(frame, truth)),
            "gram_to_true": float(gram_loss(found, wanted["true"])),
            "gram_to_init": float(gram_loss(found, wanted["init"])),
            "warp_error": warp_error(frame, previous, flow, seen),
            "motion": float(distance(frame, previous)),
            "true_motion": float(distance(truth, before)),
            "psnr": float(-10 * torch.log10(((frame - truth) / 2).square().mean().clamp(min=1e-10))),
        }


def _slope_error(frame: Tensor, truth: Tensor) -> float:
    """Mean absolute difference of Scharr slopes, per channel of pictures in 0…1: neither normalised nor smoothed."""
    return float(np.abs(_scharr(frame) - _scharr(truth)).mean())


def _scharr(pixels: Tensor) -> Any:
    image = np.ascontiguousarray(((pixels[0] + 1) / 2).permute(1, 2, 0).numpy())
    # Scharr's weights add up to 32 over a step of two pixels: divided, a full step of black to white is 1.
    return np.hypot(cv2.Scharr(image, cv2.CV_32F, 1, 0), cv2.Scharr(image, cv2.CV_32F, 0, 1)) / 16


def _tensor(image: Any) -> Tensor:
    """[H, W, 3] in 0…1 -> [1, 3, H, W] in -1…1."""
    return torch.from_numpy(np.ascontiguousarray(image, dtype=np.float32)).permute(2, 0, 1)[None] * 2 - 1


def _stored(pixels: Tensor) -> Tensor:
    """As an 8-bit file would give it back."""
    return ((pixels.clamp(-1, 1) + 1) * 127.5).round() / 127.5 - 1


def _image(pixels: Tensor) -> Image.Image:
    return _picture(((pixels[0] + 1) / 2).permute(1, 2, 0).numpy())


def _picture(image: Any) -> Image.Image:
    return Image.fromarray(np.round(np.clip(image, 0, 1) * 255).astype(np.uint8))


def _plain(step: GuidedStep) -> dict[str, Any]:
    return {**asdict(step), "losses": dict(step.losses)}


def _name(ours: Ours) -> str:
    temporal = "" if ours.temporal_scale == Ours.temporal_scale else f", temporal {ours.temporal_scale:g}"
    return f"lr {ours.lr:g}, {ours.window}, ×{ours.iterations}, {ours.through}{temporal}"


def _weights(editor: Editor) -> str:
    """A short print of the weights in force."""
    digest = hashlib.sha256()
    for part in (editor.transformer, editor.vae, editor.text_encoder):
        for name, value in part.state_dict().items():
            sample_of = value.flatten()[:: max(1, value.numel() // 64)]
            digest.update(name.encode() + sample_of.detach().float().cpu().numpy().tobytes())
    return digest.hexdigest()


def _key(plan: Plan, variant: Variant, seed: int, stamp: str) -> str:
    shared: tuple[Any, ...] = (plan.frames, plan.steps, plan.true_cfg_scale, plan.size, plan.prompt)
    if plan.people:  # so that cells of shapes, kept before there were people, are found again
        shared = (*shared, "people")
    guidance = variant.guidance
    described = [type(guidance).__name__, None if guidance is None else asdict(guidance)]
    text = json.dumps([shared, variant.name, described, seed, stamp])
    return hashlib.sha256(text.encode()).hexdigest()[:24]


def _write(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_suffix(".writing")
    unfinished.write_text(json.dumps(list(rows)))
    unfinished.replace(path)
