"""What is measured: diffusers as it is, each lever alone, and all of them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import torch

from darkroom.models.attention import best
from darkroom.models.levers import Levers
from darkroom.models.specs import Precision
from darkroom.settings import AttentionName

ROUNDING_DB = 25.0
LOSSY_DB = 12.0
"""Least signal-to-noise ratio of a forward against the baseline's. Bounds catch mistakes; they do not judge quality."""


@dataclass(frozen=True)
class Variant:
    """One way to run the same edit.

    diffusers: its own pipeline, which is the baseline. whole: measured more often, since it is what would be served.
    attention: torch's own choice unless another is the lever.
    """

    name: str
    levers: Levers
    precision: Precision = "bf16"
    attention: AttentionName = "native"
    diffusers: bool = False
    whole: bool = False

    @property
    def kind(self) -> Literal["exact", "rounding", "lossy"]:
        """How its result may differ from the baseline's."""
        if self.precision != "bf16":
            return "lossy"
        return "exact" if self.levers == Levers.none() and self.attention == "native" else "rounding"

    @property
    def bound_db(self) -> float:
        """The least signal-to-noise ratio that passes."""
        return LOSSY_DB if self.kind == "lossy" else ROUNDING_DB


BASELINE = Variant("diffusers", Levers.none(), diffusers=True, whole=True)


def wholes(device: str) -> list[Variant]:
    """Everything that helps on a GPU, in bf16 and in FP8; on a GPU also with compiled blocks."""
    every = replace(Levers.every("cuda"), compile=False)
    compiled = replace(every, compile=True)
    attention = best(torch.device(device))
    found = [
        Variant("all, bf16", every, "bf16", attention, whole=True),
        Variant("all, fp8", every, "fp8", attention, whole=True),
    ]
    if device == "cuda":
        found += [
            Variant("all and compiled, bf16", compiled, "bf16", attention, whole=True),
            Variant("all and compiled, fp8", compiled, "fp8", attention, whole=True),
        ]
    return found


def alone(device: str) -> list[Variant]:
    """The engine without levers, and each lever by itself. Only the lean forward can be compiled."""
    return [
        Variant("engine without levers", Levers.none()),
        Variant("lever: attention", Levers.none(), attention=best(torch.device(device))),
        Variant("lever: fold", Levers(fold=True)),
        Variant("lever: lean", Levers(lean=True)),
        Variant("lever: conv2d", Levers(conv2d=True)),
        Variant("lever: compile (with lean)", Levers(lean=True, compile=True)),
        Variant("lever: fp8", Levers.none(), "fp8"),
        Variant("lever: int8", Levers.none(), "int8"),
    ]
