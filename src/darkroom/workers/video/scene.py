"""What a frame is held against: its edges, the init frame, the frame before, and how the picture moves between."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional

from darkroom.media import edge_map, to_tensor
from darkroom.models.optical_flow import OpticalFlow, flow_and_mask
from darkroom.models.perceptual import Perceptual
from darkroom.technique.losses import Features
from darkroom.technique.metrics import frame_metrics
from darkroom.technique.registration import Drift, drift, undo
from darkroom.technique.warp import warp
from darkroom.workers.video.footage import Take


@dataclass(frozen=True)
class Rulers:
    """The models that frames are measured by."""

    perceptual: Perceptual
    flow: OpticalFlow
    device: torch.device

    @property
    def names(self) -> dict[str, str]:
        """Which models they are, for the reply."""
        return {"perceptual": self.perceptual.name, "optical_flow": self.flow.name}


@dataclass(frozen=True)
class Scene:
    """One frame's surroundings, pixels [1, 3, H, W] in -1…1 but edges [1, 1, H, W] in 0…1.

    flow, mask: from this frame to the one before, by the source video; None without one. course: the same motion for
    finding drift, which can make do with what the edge maps show.
    """

    edges: Tensor
    init: Tensor
    previous: Tensor
    flow: Tensor | None
    mask: Tensor | None
    course: Tensor
    rulers: Rulers

    @property
    def features(self) -> Features:
        """Feature maps for Gram matrices."""
        return self.rulers.perceptual.features

    def registered(self, pixels: Tensor) -> tuple[Tensor, Drift]:
        """The picture [1, 3, H, W] without the shift and zoom that the edit added, and what was undone."""
        found = drift(pixels, warp(self.previous, self.course).to(pixels))
        return undo(pixels, found), found

    def measured(self, frame: Image.Image) -> dict[str, float]:
        """The frame's metrics by column; taken from what is stored, eight bits."""
        with torch.no_grad():
            return frame_metrics(
                pixels_of(frame, self.rulers.device),
                edges=self.edges,
                init=self.init,
                previous=self.previous,
                features=self.features,
                distance=self.rulers.perceptual.distance,
                flow=self.flow,
                mask=self.mask,
            )


def scenes(init: Image.Image, rulers: Rulers) -> Callable[[Take, Take | None, Image.Image], Scene]:
    """(take, the take before, the frame before) -> its scene. init is frame 0, at the size of the output."""
    first = pixels_of(init, rulers.device)

    def scene(take: Take, before: Take | None, previous: Image.Image) -> Scene:
        flow: Tensor | None = None
        mask: Tensor | None = None
        if take.source is not None and before is not None and before.source is not None:
            here, there = pixels_of(take.source, rulers.device), pixels_of(before.source, rulers.device)
            flow, mask = flow_and_mask(rulers.flow, here, there)
        lines = pixels_of(take.edges, rulers.device)
        course = flow
        if course is None:
            earlier = edge_map(init) if before is None else before.edges
            course = rulers.flow(_blurred(lines), _blurred(pixels_of(earlier, rulers.device)))
        edges = (lines.mean(dim=1, keepdim=True) + 1) / 2
        return Scene(edges, first, pixels_of(previous, rulers.device), flow, mask, course, rulers)

    return scene


def pixels_of(image: Image.Image, device: torch.device) -> Tensor:
    """[1, 3, H, W] in -1…1."""
    return to_tensor(image)[None].to(device)


def _blurred(lines: Tensor) -> Tensor:
    # Lines one pixel wide give optical flow nothing to slide along.
    return functional.avg_pool2d(lines, 5, stride=1, padding=2)
