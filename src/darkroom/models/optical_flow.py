"""Optical flow between two frames, by a library: OpenCV's DIS, or torchvision's RAFT where its weights are cached."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

import cv2
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from darkroom.technique.warp import visible

RAFT_FILE = "raft_large_C_T_SKHT_V2-ff5fadd5.pth"
"""torchvision's Raft_Large_Weights.C_T_SKHT_V2, as torch.hub names it in its cache."""

_RAFT_LEAST = 128
_RAFT_MULTIPLE = 8


class OpticalFlow(Protocol):
    """(this, other), each [1, 3, H, W] in -1…1 -> [1, 2, H, W]: where each point of `this` is in `other`, in pixels."""

    name: str

    def __call__(self, this: Tensor, other: Tensor) -> Tensor: ...


def load_optical_flow(device: torch.device, cache: Path | None = None) -> OpticalFlow:
    """RAFT where its weights lie in `cache` (torch.hub's checkpoints by default), else DIS; `name` says which."""
    found = (cache or Path(torch.hub.get_dir()) / "checkpoints") / RAFT_FILE
    return Raft(found).to(device) if found.is_file() else Dis()


def flow_and_mask(flow_of: OpticalFlow, this: Tensor, other: Tensor) -> tuple[Tensor, Tensor]:
    """The flow from `this` to `other` and [1, 1, H, W], 1 where both show the point (forward-backward check)."""
    flow = flow_of(this, other)
    return flow, visible(flow, flow_of(other, this))


class Dis:
    """OpenCV's dense inverse search, on the CPU. Kroeger et al., ECCV 2016."""

    name = "DIS (OpenCV)"

    def __init__(self) -> None:
        self._search = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)

    def __call__(self, this: Tensor, other: Tensor) -> Tensor:
        """As the protocol says."""
        at_rest = np.zeros((*this.shape[-2:], 2), np.float32)
        flow = self._search.calc(_grey(this), _grey(other), at_rest)
        return torch.from_numpy(np.asarray(flow, dtype=np.float32)).permute(2, 0, 1)[None].to(this.device)


class Raft(nn.Module):
    """torchvision's large RAFT. Teed and Deng, ECCV 2020."""

    name = "RAFT (torchvision)"

    def __init__(self, weights: Path) -> None:
        super().__init__()
        from torchvision.models.optical_flow import raft_large

        self.raft: Any = raft_large(weights=None)
        self.raft.load_state_dict(torch.load(weights, weights_only=True, map_location="cpu"))
        self.requires_grad_(False).eval()

    @torch.no_grad()
    def forward(self, this: Tensor, other: Tensor) -> Tensor:
        """As the protocol says; sides are padded to what RAFT takes, at least 128 and a multiple of 8."""
        height, width = this.shape[-2:]
        pad = (0, _missing(width), 0, _missing(height))
        flow = self.raft(functional.pad(this, pad, mode="replicate"), functional.pad(other, pad, mode="replicate"))[-1]
        return torch.as_tensor(flow[:, :, :height, :width])


def _missing(side: int) -> int:
    return max(_RAFT_LEAST, -(-side // _RAFT_MULTIPLE) * _RAFT_MULTIPLE) - side


def _grey(pixels: Tensor) -> Any:
    levels = ((pixels[0].float().clamp(-1, 1) + 1) * 127.5).round().byte().permute(1, 2, 0).cpu().numpy()
    return cv2.cvtColor(np.ascontiguousarray(levels), cv2.COLOR_RGB2GRAY)
