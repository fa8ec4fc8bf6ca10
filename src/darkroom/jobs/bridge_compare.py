"""`bridge_compare`: the same edits with the model's own sight and with a bridge from another model's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal

from pydantic import Field, ValidationInfo, field_validator, model_validator

from darkroom.errors import InvalidInput
from darkroom.jobs.base import limits_of
from darkroom.jobs.image_edit import PictureJob, Source, prompt_fault

UNTRAINED = "untrained"
BridgeKey = Annotated[str, Field(min_length=1, max_length=1024)]
Loading = Literal["auto", "sequential", "8bit", "offload"]


def check_key(key: str) -> str:
    """Raises ValueError unless this can be a bridge's file in the store, or `untrained`."""
    if key != UNTRAINED and not key.endswith(".safetensors"):
        raise ValueError(
            f"must be '{UNTRAINED}' or the key of a .safetensors file that bridge_train has stored; "
            "pickled weights can run code and are refused"
        )
    return key


class BridgeCompare(PictureJob):
    """Edit each of `images` twice from the same noise: as the model sees it, and as the bridge lets it see.

    prompt: one for all images, or one for each. sight_images: what the vision encoders see in the place of `images`,
    one for each. bridge: a key, "untrained", or None for the profile's own. extractor_prompt: read by the other vision
    model before each picture. alignment: that model's picture is resized to the editor's own grid of cells (exact), or
    its own grid is interpolated. loading: auto keeps what the memory budget allows; sequential lets the vision model
    go before the editor is loaded; 8bit stores it in 8 bits; offload has it on the device only while it looks.
    """

    own_size: ClassVar[str] = "match_input"
    useless: ClassVar[Mapping[str, str]] = {
        **PictureJob.useless,
        "num_images": "bridge_compare makes one pair of pictures per image; give the image again with another prompt",
        "output_format": "bridge_compare stores PNG, whose pixels can be compared",
        "output_quality": "bridge_compare stores PNG, whose pixels can be compared",
    }

    type: Literal["bridge_compare"]
    images: Annotated[list[Source], Field(min_length=1)]
    sight_images: Annotated[list[Source], Field(min_length=1)] | None = None
    bridge: BridgeKey | None = None
    extractor_prompt: str | None = None
    alignment: Literal["exact", "interpolate"] = "exact"
    loading: Loading = "auto"
    preset: Literal["fast", "balanced", "quality"] | None = None
    size: str = "match_input"

    @field_validator("bridge")
    @classmethod
    def _no_pickles(cls, key: str | None) -> str | None:
        return None if key is None else check_key(key)

    @field_validator("extractor_prompt")
    @classmethod
    def _words(cls, text: str | None, info: ValidationInfo) -> str | None:
        if text is not None and (fault := prompt_fault(text, "extractor_prompt", limits_of(info))):
            raise fault
        return text

    @model_validator(mode="after")
    def _cases(self, info: ValidationInfo) -> BridgeCompare:
        most = limits_of(info).max_prompts
        if len(self.images) > most:
            raise InvalidInput(f"images holds {len(self.images)} pictures, the limit is {most}", field="images")
        if len(self.prompts) not in (1, len(self.images)):
            raise InvalidInput(
                f"prompt holds {len(self.prompts)} instructions for {len(self.images)} images; give one, or one each",
                field="prompt",
            )
        for fault in self.failed_prompts.values():
            raise fault
        if self.sight_images is not None and len(self.sight_images) != len(self.images):
            raise InvalidInput(
                f"sight_images holds {len(self.sight_images)} pictures for {len(self.images)} images; give one each",
                field="sight_images",
            )
        return self

    def prompt_of(self, case: int) -> str:
        """The instruction of image number `case`."""
        return self.prompts[case if len(self.prompts) > 1 else 0]

    def sources(self) -> dict[str, str]:
        """The pictures to fetch, keyed as errors name them."""
        seen = enumerate(self.sight_images or [])
        images = {f"images[{i}]": address for i, address in enumerate(self.images)}
        return images | {f"sight_images[{i}]": address for i, address in seen}

    def stored_sources(self) -> dict[str, str]:
        """The bridge that an earlier job has trained."""
        return {} if self.bridge in (None, UNTRAINED) else {"bridge": str(self.bridge)}
