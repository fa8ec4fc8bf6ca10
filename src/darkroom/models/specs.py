"""What to load on which card: models per role, precision and limits per profile, all of it data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from darkroom.models.areas import Areas
from darkroom.models.levers import Levers
from darkroom.models.presets import (
    EDIT_2511,
    IMAGE,
    POCKET,
    POCKET_SWEEP,
    POCKET_WEIGHTS,
    SWEEP,
    VIDEO_2509,
    Preset,
    Sweep,
)
from darkroom.settings import MODELS, AttentionName, PrecisionName, Settings

Precision = PrecisionName
"""float32; bf16; fp8: a scale per row, multiplied in FP8; fp8_storage: widened to bf16 layer by layer; int8: both
sides; int4: NF4."""

FP8 = (8, 9)
"""The compute capability that FP8 matrix products ask for."""
RESIDENT_GIB = 20.0
"""From this memory on even a profile that may take turns keeps all parts on the card."""

FOLLOW_EDGES = (
    "Generate the scene and style of Picture 2 in the pose and layout that the edge map in Picture 1 shows, "
    "as the next frame of a video after Picture 3."
)
CLIP = "openai/clip-vit-large-patch14"


@dataclass(frozen=True)
class ModelSpec:
    """One checkpoint: where it lies, at which revision, and the sizes and presets it was made for.

    video_prompt: what a video_edit without a prompt says beside an edge map, the init frame and the frame before.
    from_text: makes pictures from text alone, and so comes with a tokenizer and nothing that looks at pictures.
    sweep: defaults of an injection sweep. head: the injection head of a sweep that names none.
    bridge: of a vision model, the bridge of a job that names none.
    """

    repo: str
    revision: str | None = None
    areas: Areas = field(default_factory=Areas)
    presets: Mapping[str, Preset] = field(default_factory=lambda: EDIT_2511)
    video_prompt: str = FOLLOW_EDGES
    from_text: bool = False
    sweep: Sweep = SWEEP
    head: Path | None = None
    bridge: Path | None = None

    @property
    def reader(self) -> str:
        """The folder of a checkpoint that reads prompts."""
        return "tokenizer" if self.from_text else "processor"


@dataclass(frozen=True)
class Profile:
    """One class of card.

    reserve_gib: device memory kept for activations. offload: parts visit the device one after the other where they
    do not fit side by side. prefers_fp8: FP8 in the place of the profile's precision on chips that multiply in it.
    max_batch: images that share one forward. max_side: longest output side in pixels.
    exact: bit for bit diffusers' pipeline. cache_mib: memory of the machine for encodings of pictures and prompts.
    rulers: the CLIP that a sweep is judged by; None is the pocket world's own.
    attention, cache_dir: as the settings say. gpus: devices that share every forward of a transformer.
    """

    name: str
    device: Literal["cpu", "cuda"]
    precision: Precision
    models: Mapping[str, ModelSpec]
    max_side: int = 2_048
    max_batch: int = 4
    reserve_gib: float = 6.0
    offload: bool = False
    prefers_fp8: bool = False
    exact: bool = False
    cache_mib: float = 512.0
    rulers: str | None = CLIP
    attention: AttentionName = "auto"
    cache_dir: Path | None = None
    gpus: int = 1

    @property
    def miniature(self) -> bool:
        """Whether its models know the pocket world alone, and its own small encoders are the ones to measure by."""
        return self.rulers is None

    @property
    def levers(self) -> Levers:
        """What makes this profile's engine faster."""
        return Levers.exact() if self.exact else Levers.every(self.device)


REAL: Mapping[str, ModelSpec] = {
    "edit": ModelSpec("Qwen/Qwen-Image-Edit-2511"),
    "video": ModelSpec("Qwen/Qwen-Image-Edit-2509", presets=VIDEO_2509),
    "image": ModelSpec("Qwen/Qwen-Image", presets=IMAGE, from_text=True),
    "vision": ModelSpec("Qwen/Qwen3-VL-8B-Instruct"),
}

_POCKET_EDIT = ModelSpec(
    str(POCKET_WEIGHTS / "edit"),
    areas=Areas(sight=128 * 128, vae=128 * 128),
    presets=POCKET,
    video_prompt="draw the next frame following the edges",
)
_POCKET_IMAGE = replace(
    _POCKET_EDIT, from_text=True, sweep=POCKET_SWEEP, head=POCKET_WEIGHTS / "injection" / "head.safetensors"
)
_POCKET = {
    "edit": _POCKET_EDIT,
    "video": _POCKET_EDIT,
    "image": _POCKET_IMAGE,
    "vision": ModelSpec(
        str(POCKET_WEIGHTS / "qwen3vl"), bridge=POCKET_WEIGHTS / "bridge" / "bridge.safetensors"
    ),
}

PROFILES: Mapping[str, Profile] = {
    profile.name: profile
    for profile in (
        Profile("pocket", "cpu", "float32", _POCKET, max_side=1_024, max_batch=16, reserve_gib=0.0, cache_mib=64.0,
                rulers=None),
        Profile("l4", "cuda", "fp8", REAL, max_batch=1, reserve_gib=2.0),
        Profile("a6000", "cuda", "bf16", REAL, max_batch=1, reserve_gib=4.0, prefers_fp8=True),
        Profile("a100", "cuda", "bf16", REAL),
        Profile("h200", "cuda", "bf16", REAL, max_batch=8, reserve_gib=12.0),
        Profile("rtx3090", "cuda", "int4", REAL, max_batch=1, reserve_gib=2.0, offload=True),
    )
}


@dataclass(frozen=True)
class Card:
    """What `auto` looks at: total device memory and compute capability; `name` is for people."""

    memory_gib: float
    capability: tuple[int, int]
    name: str = ""


def choose(card: Card | None) -> str:
    """The profile for a card, by memory first; FP8 needs compute capability 8.9. None is a machine without CUDA."""
    if card is None:
        return "pocket"
    for name, least in (("h200", 120.0), ("a100", 70.0), ("a6000", 40.0)):
        if card.memory_gib >= least:
            return name
    return "l4" if card.memory_gib >= 21.0 and card.capability >= FP8 else "rtx3090"


def resolve(settings: Settings, card: Card | None) -> Profile:
    """The profile in force, with the models that settings name put in place of its own."""
    profile = PROFILES[choose(card) if settings.profile == "auto" else settings.profile]
    models = dict(profile.models)
    for role in MODELS:
        repo = getattr(settings, f"{role}_model")
        revision = getattr(settings, f"{role}_revision")
        base = models.get(role, next(iter(models.values())))
        if repo is not None:
            models[role] = replace(base, repo=repo, revision=revision)
        elif revision is not None and role in models:
            models[role] = replace(base, revision=revision)
    return replace(
        profile,
        models=models,
        max_side=settings.max_side or profile.max_side,
        precision=settings.precision or own_precision(profile, card),
        offload=profile.offload and (card is None or card.memory_gib < RESIDENT_GIB),
        exact=settings.exact,
        attention=settings.attention,
        cache_dir=settings.cache_dir,
        gpus=settings.gpus,
        cache_mib=profile.cache_mib if settings.cache_mib is None else settings.cache_mib,
    )


def own_precision(profile: Profile, card: Card | None) -> Precision:
    """What a profile takes on this card where settings say nothing."""
    return "fp8" if profile.prefers_fp8 and card is not None and card.capability >= FP8 else profile.precision
