"""`image_edit`: one to three pictures changed by instruction."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    PrivateAttr,
    ValidationInfo,
    field_validator,
    model_validator,
)

from darkroom.errors import BadJob, InputTooLarge, InvalidInput
from darkroom.jobs.base import JobInput, limits_of
from darkroom.jobs.limits import Limits

MAX_SEED = 2**63 - 1
MULTIPLE = 16
"""Pixels per side of one transformer token: 8 from the VAE times a patch of 2."""

Source = Annotated[str, Field(min_length=1)]


class LoraRequest(BaseModel):
    """A LoRA to put on for this job: a safetensors file by Hugging Face id, https or s3 address, and its strength."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, allow_inf_nan=False)

    path: Annotated[str, Field(min_length=1, max_length=1024)]
    scale: Annotated[float, Field(ge=-4.0, le=4.0)] = 1.0

    @field_validator("path")
    @classmethod
    def _no_pickles(cls, path: str) -> str:
        name = path.split("?")[0].rsplit("/", 1)[-1].lower()
        if name.endswith((".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")):
            raise ValueError("must be a .safetensors file: pickled weights can run code and are refused")
        return path


class PictureJob(JobInput):
    """What jobs that make pictures by prompts have in common.

    Unset fields (None) take the model's own value. Image k of every prompt is made from noise of seed + k, so a
    prompt's picture does not depend on which other prompts stand in the job.
    """

    own_size: ClassVar[str]
    """The word in `size` that leaves the choice to the model."""

    useless: ClassVar[Mapping[str, str]] = {
        "guidance_scale": "this model is not guidance-distilled, so it would do nothing; use true_cfg_scale",
    }

    prompt: str | list[str]
    negative_prompt: str = " "
    num_images: Annotated[int, Field(ge=1)] = 1
    num_inference_steps: Annotated[int, Field(ge=1)] | None = None
    true_cfg_scale: Annotated[float, Field(ge=1.0, le=20.0)] | None = None
    size: str
    seed: Annotated[int, Field(ge=-1, le=MAX_SEED)] = -1
    loras: list[LoraRequest] = []
    output_format: Literal["png", "webp", "jpeg"] = "png"
    output_quality: Annotated[int, Field(ge=1, le=100)] = 95
    delivery: Literal["auto", "s3", "base64"] = "auto"
    expires_seconds: Annotated[int, Field(ge=60, le=604_800)] = 3600

    _failed: dict[int, BadJob] = PrivateAttr(default_factory=dict)

    @field_validator("negative_prompt")
    @classmethod
    def _bounded(cls, text: str, info: ValidationInfo) -> str:
        if not is_text(text):
            raise ValueError("holds half of a surrogate pair, which is no text")
        limit = limits_of(info).max_prompt_chars
        if len(text) > limit:
            raise InputTooLarge(
                f"negative_prompt has {len(text)} characters, the limit is {limit}", field="negative_prompt"
            )
        return text

    @field_validator("num_images", "num_inference_steps")
    @classmethod
    def _at_most(cls, value: int | None, info: ValidationInfo) -> int | None:
        limits = limits_of(info)
        most = limits.max_images_per_prompt if info.field_name == "num_images" else limits.max_steps
        if value is not None and value > most:
            raise ValueError(f"must be at most {most}")
        return value

    @field_validator("size")
    @classmethod
    def _size(cls, size: str, info: ValidationInfo) -> str:
        if size != cls.own_size:
            check_size(size, limits_of(info).max_side, cls.own_size)
        return size

    @field_validator("loras")
    @classmethod
    def _few_loras(cls, loras: list[LoraRequest], info: ValidationInfo) -> list[LoraRequest]:
        most = limits_of(info).max_loras
        if len(loras) > most:
            raise ValueError(f"must have at most {most} entries")
        return loras

    @model_validator(mode="after")
    def _prompts(self, info: ValidationInfo) -> Self:
        limits = limits_of(info)
        prompts = self.prompts
        if not prompts:
            raise InvalidInput("prompt must hold at least one instruction", field="prompt")
        if len(prompts) > limits.max_prompts:
            raise InvalidInput(
                f"prompt holds {len(prompts)} instructions, the limit is {limits.max_prompts}", field="prompt"
            )
        names = ["prompt"] if isinstance(self.prompt, str) else [f"prompt[{i}]" for i in range(len(prompts))]
        failed = {i: bad for i, name in enumerate(names) if (bad := prompt_fault(prompts[i], name, limits))}
        if len(failed) == len(prompts):
            raise failed[0]
        self._failed = failed
        return self

    @property
    def prompts(self) -> list[str]:
        """The instructions as a list, good and bad."""
        return [self.prompt] if isinstance(self.prompt, str) else list(self.prompt)

    @property
    def failed_prompts(self) -> dict[int, BadJob]:
        """Position -> fault of each instruction that cannot run; the others do."""
        return dict(self._failed)

    @property
    def dimensions(self) -> tuple[int, int] | None:
        """(width, height) in pixels, or None where the model chooses."""
        return None if self.size == self.own_size else parse_size(self.size, self.own_size)

    def weight_sources(self) -> dict[str, str]:
        """The LoRAs given by address; the others are names on the hub or in the worker's own folder."""
        return {f"loras[{i}].path": lora.path for i, lora in enumerate(self.loras) if "://" in lora.path}


class ImageEdit(PictureJob):
    """Edit 1–3 images by one or several instructions; unset fields take the preset's value, it the profile's."""

    aliases: ClassVar[Mapping[str, str]] = {"image_base64": "images", "images_base64": "images"}
    own_size: ClassVar[str] = "match_input"

    type: Literal["image_edit"] = "image_edit"
    images: Annotated[list[Source], Field(min_length=1, max_length=3)]
    preset: Literal["fast", "balanced", "quality"] | None = None
    acceleration: Literal["none", "cache", "aggressive"] = "none"
    size: str = "match_input"

    def sources(self) -> dict[str, str]:
        """The images to fetch, keyed as errors name them."""
        return {f"images[{i}]": address for i, address in enumerate(self.images)}


def prompt_fault(prompt: str, name: str, limits: Limits) -> BadJob | None:
    """Why this instruction cannot run, or None."""
    if not prompt.strip():
        return InvalidInput(f"{name} is empty; say what to change", field=name)
    if not is_text(prompt):
        return InvalidInput(f"{name} holds half of a surrogate pair, which is no text", field=name)
    if len(prompt) > limits.max_prompt_chars:
        return InputTooLarge(f"{name} has {len(prompt)} characters, the limit is {limits.max_prompt_chars}", field=name)
    return None


def is_text(text: str) -> bool:
    """Whether the string can be written as UTF-8; JSON's escapes can make one that cannot."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def parse_size(size: str, own_size: str) -> tuple[int, int]:
    """'1024*768' -> (1024, 768), width first. Raises ValueError for any other form."""
    match = re.fullmatch(r"(\d{1,6})[*xX](\d{1,6})", size)
    if match is None:
        raise ValueError(f"must be {own_size!r} or 'WIDTH*HEIGHT' in pixels, such as '1024*768'")
    return int(match[1]), int(match[2])


def check_size(size: str, max_side: int, own_size: str) -> None:
    """Raises ValueError unless both sides are multiples of 16 within 64…max_side."""
    for side in parse_size(size, own_size):
        if not 64 <= side <= max_side:
            raise ValueError(f"each side must be between 64 and {max_side} pixels, got {side}")
        if side % MULTIPLE:
            nearest = max(64, round(side / MULTIPLE) * MULTIPLE)
            raise ValueError(f"each side must be a multiple of {MULTIPLE}; {side} is not, {nearest} is")
