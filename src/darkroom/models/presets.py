"""Presets as data: steps, CFG, LoRA and schedule shift belong together and change together."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from darkroom.technique.schedule import LIGHTNING_SHIFT

POCKET_WEIGHTS = Path(__file__).resolve().parent.parent / "pocket" / "weights"


@dataclass(frozen=True)
class LoraFile:
    """One safetensors file of a Hugging Face repository, at one revision, or of a local folder."""

    repo: str
    file: str
    revision: str | None = None


@dataclass(frozen=True)
class Preset:
    """How an edit is sampled unless explicit fields say otherwise.

    shift: a fixed log shift of the schedule, without terminal stretch; None keeps the model's own schedule.
    lora: a step-distilled LoRA that the numbers were made for.
    """

    steps: int
    true_cfg_scale: float
    shift: float | None = None
    lora: LoraFile | None = None

    @property
    def forwards(self) -> int:
        """Passes of the transformer per image."""
        return self.steps * (2 if self.true_cfg_scale > 1 else 1)


LIGHTNING_2511 = LoraFile(
    repo="lightx2v/Qwen-Image-Edit-2511-Lightning",
    file="Qwen-Image-Edit-2511-Lightning-4steps-V1.0-bf16.safetensors",
    revision="d74eba145674fd7e31b949324e148e21e7118abd",
)

EDIT_2511: Mapping[str, Preset] = {
    "fast": Preset(steps=4, true_cfg_scale=1.0, shift=LIGHTNING_SHIFT, lora=LIGHTNING_2511),
    "balanced": Preset(steps=8, true_cfg_scale=4.0),
    "quality": Preset(steps=40, true_cfg_scale=4.0),
}

IMAGE: Mapping[str, Preset] = {"balanced": Preset(steps=50, true_cfg_scale=4.0)}

VIDEO_2509: Mapping[str, Preset] = {"balanced": Preset(steps=50, true_cfg_scale=4.0)}

# The pocket's own, which `darkroom pocket train --part lightning` makes.
LIGHTNING_POCKET = LoraFile(repo=str(POCKET_WEIGHTS / "lightning"), file="pytorch_lora_weights.safetensors")

# The pocket family is trained for use without CFG, which shifts its colours (docs/pocket.md has the figures).
POCKET: Mapping[str, Preset] = {
    "fast": Preset(steps=4, true_cfg_scale=1.0, shift=LIGHTNING_SHIFT, lora=LIGHTNING_POCKET),
    "balanced": Preset(steps=8, true_cfg_scale=1.0),
    "quality": Preset(steps=20, true_cfg_scale=1.0),
}


@dataclass(frozen=True)
class Sweep:
    """What an injection sweep takes where the job says nothing; sides in pixels, guidance a true CFG scale."""

    alphas: tuple[float, ...]
    gen_seeds: tuple[int, ...]
    steps: int
    guidance: float
    height: int
    width: int
    base_prompt: str
    negative_prompt: str


SWEEP = Sweep(
    alphas=(0.5, 1.0, 1.5),
    gen_seeds=(1234, 5678, 9999),
    steps=28,
    guidance=4.5,
    height=768,
    width=512,
    base_prompt="a portrait photo of a person, studio lighting, 85mm",
    negative_prompt="blurry, low quality, deformed, watermark",
)

POCKET_SWEEP = Sweep(
    alphas=(0.5, 1.0, 1.5),
    gen_seeds=(1234, 5678),
    steps=8,
    guidance=1.0,
    height=128,
    width=128,
    base_prompt="a portrait of ~ID~ in front of a blue background",
    negative_prompt=" ",
)

DEFAULT = "balanced"
