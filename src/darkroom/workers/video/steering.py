"""How a frame is steered: a job's scales and windows as terms of the guided denoiser."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from darkroom.jobs import Guidance
from darkroom.models.differentiable import guiding_decoder, recomputing
from darkroom.models.editor import Editor
from darkroom.technique.guidance import GuidedStep, Term, guided
from darkroom.technique.losses import Loss, edges_like, motion_like, style_like
from darkroom.technique.sampling import Denoise
from darkroom.technique.windows import WINDOWS, guided_steps
from darkroom.workers.video.scene import Scene


@dataclass
class Steering:
    """Guidance for one frame; `steps` fills as the frame is made. Without any active scale it changes nothing."""

    wanted: Guidance | None
    scene: Scene
    steps: list[GuidedStep]

    def around(self, denoise: Denoise, editor: Editor, sigmas: Tensor, size: tuple[int, int]) -> Denoise:
        """`denoise` with guidance; `denoise` itself, untouched, where no scale is above 0."""
        if self.wanted is None or not self.wanted.active:
            return denoise
        if self.wanted.through == "transformer":
            denoise = recomputing(editor, denoise)
        return guided(
            denoise,
            self._terms(self.wanted, sigmas),
            guiding_decoder(editor, *size),
            sigmas,
            lr=self.wanted.lr,
            iterations=self.wanted.iterations,
            through=self.wanted.through,
            report=self.steps.append,
        )

    def _terms(self, wanted: Guidance, sigmas: Tensor) -> list[Term]:
        scene = self.scene
        losses: dict[str, tuple[float, int | None, Loss]] = {
            "edge": (wanted.edge_scale, wanted.edge_size, edges_like(scene.edges)),
            "gram": (wanted.gram_scale, wanted.gram_size, style_like(scene.init, scene.features)),
            "temporal": (wanted.temporal_scale, None, motion_like(scene.previous, scene.flow, scene.mask)),
        }
        return [
            Term(name, loss, scale, _window(name, wanted, sigmas), size)
            for name, (scale, size, loss) in losses.items()
            if scale > 0
        ]


def idle_losses(wanted: Guidance, sigmas: Tensor) -> list[str]:
    """The losses that are wanted and guide no step of a run along `sigmas`."""
    return [name for name in WINDOWS if getattr(wanted, f"{name}_scale") > 0 and not _window(name, wanted, sigmas)]


def _window(name: str, wanted: Guidance, sigmas: Tensor) -> frozenset[int]:
    return guided_steps(
        sigmas,
        WINDOWS[name],
        start_step=wanted.start_step,
        end_step=wanted.end_step,
        last_steps=wanted.last_steps,
        every=wanted.every,
    )
