"""`injection_train`: a head that turns a person's photos into a residual on a prompt."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal

from pydantic import Field, ValidationInfo, field_validator, model_validator

from darkroom.errors import InvalidInput
from darkroom.jobs.base import limits_of
from darkroom.jobs.image_edit import MAX_SEED, Source, prompt_fault
from darkroom.jobs.injection_sweep import USELESS, PhotoFit

Weight = Annotated[float, Field(ge=0.0, le=100.0)]


class InjectionTrain(PhotoFit):
    """Train a head on a zip, or an s3:// prefix, of `seed_*` directories with `photo_view_*.png` and `caption.txt`.

    objective: "caption" regresses the embeddings of each person's caption; "flow" is the velocity loss through the
    frozen transformer, photo and target being different photos of one person; "both" is their sum, the latter times
    `flow_weight`; "zero" is the published original's, towards no residual, and a baseline only. captions: "vision" has
    people without caption.txt described by the vision model, from their first photo. held_out: photos of each person
    kept for validation. base_prompt: the prompt that the residual is trained on. Unset fields take the
    profile's values.
    """

    useless: ClassVar[Mapping[str, str]] = USELESS

    type: Literal["injection_train"]
    dataset: Source
    captions: Literal["sidecar", "vision"] = "sidecar"
    objective: Literal["caption", "flow", "both", "zero"] = "caption"
    epochs: Annotated[int, Field(ge=1, le=100_000)] = 3
    batch_size: Annotated[int, Field(ge=1, le=4_096)] = 2
    lr: Annotated[float, Field(gt=0.0, le=1.0)] = 1e-3
    gradient_accumulation: Annotated[int, Field(ge=1, le=1_024)] = 1
    cosine_weight: Weight = 0.7
    mse_weight: Weight = 0.3
    rms_weight: Weight = 0.05
    flow_weight: Weight = 1.0
    slots: Annotated[int, Field(ge=1, le=64)] = 20
    rank: Annotated[int, Field(ge=4, le=1_024, multiple_of=4)] = 128
    held_out: Annotated[int, Field(ge=0, le=100)] = 1
    base_prompt: str | None = None
    seed: Annotated[int, Field(ge=0, le=MAX_SEED)] = 123
    delivery: Literal["auto", "s3", "base64"] = "auto"
    expires_seconds: Annotated[int, Field(ge=60, le=604_800)] = 3600

    @field_validator("base_prompt")
    @classmethod
    def _words(cls, text: str | None, info: ValidationInfo) -> str | None:
        fault = None if text is None else prompt_fault(text, "base_prompt", limits_of(info))
        if fault is not None:
            raise fault
        return text

    @model_validator(mode="after")
    def _something_pulls(self) -> InjectionTrain:
        if self.objective in ("caption", "both") and not self.cosine_weight + self.mse_weight + self.rms_weight:
            raise InvalidInput("cosine_weight: the caption objective needs a weight above 0", field="cosine_weight")
        return self

    def clip_sources(self) -> dict[str, str]:
        """The dataset, under a zip's larger limit."""
        return {"dataset": self.dataset}
