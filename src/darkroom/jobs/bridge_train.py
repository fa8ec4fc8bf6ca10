"""`bridge_train`: a bridge learns to tell a model what it cannot see; everything around it stays as it is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal

from pydantic import Field, ValidationInfo, field_validator, model_validator

from darkroom.errors import InvalidInput
from darkroom.jobs.base import JobInput, limits_of
from darkroom.jobs.bridge_compare import UNTRAINED, BridgeKey, Loading, check_key
from darkroom.jobs.image_edit import MAX_SEED, Source, prompt_fault


class BridgeTrain(JobInput):
    """Train a bridge on edit triples: a zip, or an s3:// prefix, of folders that hold `source`, `target` and a prompt.

    A triple is a folder with `source.png`, `target.png`, `prompt.txt` and, where the vision encoders see something
    else, `sight.png` and `sharp.png` (the same, sharper); .jpg and .webp do as well. distill_epochs: first the bridge
    learns to say what the editor's own vision model says of the sharper picture. flow_epochs: then the velocity loss
    through the frozen editor. held_out: share of the triples kept for validation. bridge: a checkpoint to start from.
    """

    useless: ClassVar[Mapping[str, str]] = {
        "epochs": "bridge_train has two phases; give distill_epochs and flow_epochs",
    }

    type: Literal["bridge_train"]
    dataset: Source
    bridge: BridgeKey = UNTRAINED
    extractor_prompt: str | None = None
    loading: Loading = "auto"
    distill_epochs: Annotated[int, Field(ge=0, le=100_000)] = 10
    flow_epochs: Annotated[int, Field(ge=0, le=100_000)] = 10
    batch_size: Annotated[int, Field(ge=1, le=4_096)] = 8
    gradient_accumulation: Annotated[int, Field(ge=1, le=1_024)] = 1
    lr: Annotated[float, Field(gt=0.0, le=1.0)] = 1e-4
    weight_decay: Annotated[float, Field(ge=0.0, le=1.0)] = 0.01
    held_out: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.1
    fusion: Literal["attention", "mlp"] = "attention"
    rank: Annotated[int, Field(ge=1, le=4_096)] = 224
    use_residual: bool = True
    shared_up: bool = False
    seed: Annotated[int, Field(ge=0, le=MAX_SEED)] = 123
    delivery: Literal["auto", "s3", "base64"] = "auto"
    expires_seconds: Annotated[int, Field(ge=60, le=604_800)] = 3600

    @field_validator("bridge")
    @classmethod
    def _no_pickles(cls, key: str) -> str:
        return check_key(key)

    @field_validator("extractor_prompt")
    @classmethod
    def _words(cls, text: str | None, info: ValidationInfo) -> str | None:
        if text is not None and (fault := prompt_fault(text, "extractor_prompt", limits_of(info))):
            raise fault
        return text

    @model_validator(mode="after")
    def _something_to_do(self) -> BridgeTrain:
        if not self.distill_epochs + self.flow_epochs:
            raise InvalidInput("distill_epochs and flow_epochs are both 0: nothing would be learned",
                               field="distill_epochs")  # fmt: skip
        form = {"fusion", "rank", "use_residual", "shared_up"} & self.model_fields_set
        if self.bridge != UNTRAINED and form:
            name = min(form)
            raise InvalidInput(f"{name}: the bridge that is trained on keeps its own form; leave it out", field=name)
        return self

    def clip_sources(self) -> dict[str, str]:
        """The dataset, under a zip's larger limit."""
        return {"dataset": self.dataset}

    def stored_sources(self) -> dict[str, str]:
        """The bridge to start from."""
        return {} if self.bridge == UNTRAINED else {"bridge": self.bridge}
