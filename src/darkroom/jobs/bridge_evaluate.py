"""`bridge_evaluate`: what a bridge is worth, measured on edits whose right result is known."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal

from pydantic import Field, ValidationInfo, field_validator

from darkroom.jobs.base import JobInput, limits_of
from darkroom.jobs.bridge_compare import UNTRAINED, BridgeKey, Loading, check_key
from darkroom.jobs.image_edit import MAX_SEED, prompt_fault

SuiteName = Literal["ocr", "spatial", "detail", "consistency", "marks"]
SUITES: tuple[SuiteName, ...] = ("ocr", "spatial", "detail", "consistency", "marks")
Language = Literal["eng", "fra", "deu", "chi_sim"]
LANGUAGES: tuple[Language, ...] = ("eng", "fra", "deu", "chi_sim")


class BridgeEvaluate(JobInput):
    """Edit generated cases with the model's own sight and with the bridge, and score both from their pixels.

    suites: what is tested. cases: per suite; seeds: per case, counted up from `seed`. languages: of the texts to be
    read, by Tesseract's codes; None takes those that this worker can write and read, and says which it cannot.
    bridge, extractor_prompt, loading: as `bridge_compare`'s. Unset steps and CFG are the preset's, it the profile's.
    """

    useless: ClassVar[Mapping[str, str]] = {
        "images": "bridge_evaluate draws its own cases, whose right results it knows; bridge_compare takes images",
        "prompt": "bridge_evaluate draws its own cases, whose right results it knows; bridge_compare takes prompts",
        "size": "cases have the model's own size",
        "guidance_scale": "this model is not guidance-distilled, so it would do nothing; use true_cfg_scale",
    }

    type: Literal["bridge_evaluate"]
    bridge: BridgeKey | None = None
    suites: Annotated[list[SuiteName], Field(min_length=1)] = list(SUITES)
    cases: Annotated[int, Field(ge=1, le=1_000)] = 30
    seeds: Annotated[int, Field(ge=1, le=20)] = 3
    languages: Annotated[list[Language], Field(min_length=1)] | None = None
    extractor_prompt: str | None = None
    loading: Loading = "auto"
    preset: Literal["fast", "balanced", "quality"] | None = None
    num_inference_steps: Annotated[int, Field(ge=1)] | None = None
    true_cfg_scale: Annotated[float, Field(ge=1.0, le=20.0)] | None = None
    seed: Annotated[int, Field(ge=0, le=MAX_SEED - 20)] = 0
    delivery: Literal["auto", "s3", "base64"] = "auto"
    expires_seconds: Annotated[int, Field(ge=60, le=604_800)] = 3600

    @field_validator("bridge")
    @classmethod
    def _no_pickles(cls, key: str | None) -> str | None:
        return None if key is None else check_key(key)

    @field_validator("suites", "languages")
    @classmethod
    def _each_once(cls, names: list[str] | None) -> list[str] | None:
        twice = [name for name in names or [] if (names or []).count(name) > 1]
        if twice:
            raise ValueError(f"names {twice[0]} twice")
        return names

    @field_validator("num_inference_steps")
    @classmethod
    def _at_most(cls, value: int | None, info: ValidationInfo) -> int | None:
        most = limits_of(info).max_steps
        if value is not None and value > most:
            raise ValueError(f"must be at most {most}")
        return value

    @field_validator("extractor_prompt")
    @classmethod
    def _words(cls, text: str | None, info: ValidationInfo) -> str | None:
        if text is not None and (fault := prompt_fault(text, "extractor_prompt", limits_of(info))):
            raise fault
        return text

    def stored_sources(self) -> dict[str, str]:
        """The bridge that an earlier job has trained."""
        return {} if self.bridge in (None, UNTRAINED) else {"bridge": str(self.bridge)}
