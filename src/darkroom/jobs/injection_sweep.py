"""`injection_sweep`: a person's photos as a residual on a prompt, at several strengths, beside its controls."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal

from pydantic import Field, ValidationInfo, field_validator, model_validator

from darkroom.errors import InputTooLarge, InvalidInput
from darkroom.jobs.base import JobInput, limits_of
from darkroom.jobs.image_edit import MAX_SEED, MULTIPLE, Source, is_text, prompt_fault

Alpha = Annotated[float, Field(ge=-8.0, le=8.0)]
Seed = Annotated[int, Field(ge=0, le=MAX_SEED)]
Side = Annotated[int, Field(ge=64, multiple_of=MULTIPLE)]

USELESS = {
    "true_cfg_scale": "the injection jobs call it guidance, as their original does",
    "num_inference_steps": "the injection jobs call it steps, as their original does",
    "size": "give height and width",
}
"""Names of other job types."""


class PhotoFit(JobInput):
    """How photos are fitted to the vision model."""

    photo_fit: Literal["crop", "budget"] = "crop"
    photo_pixels: Annotated[int, Field(ge=32 * 32, le=4096 * 4096)] = 448 * 448


class InjectionSweep(PhotoFit):
    """Make pictures of people at every strength (alphas) and seed (gen_seeds), with controls and curves.

    photos: all of one person; or dataset: a zip, or an s3:// prefix, of `seed_*` directories with `photo_view_*.png`.
    head: a checkpoint of injection_train: its key in the worker's store, or an address; None is the profile's own,
    where one is shipped.
    alphas: strengths; 0 is the prompt alone. photo_fit: "crop" takes the middle square at `photo_pixels` of area,
    "budget" the whole photo at its own aspect. controls: also the prompt alone, a random residual, and that of another
    person, where there is one: `other_photos`, or the dataset's next. caption: what the person looks like, as a
    ceiling; a dataset has its own in caption.txt. Unset fields take the profile's values.
    """

    useless: ClassVar[Mapping[str, str]] = USELESS

    type: Literal["injection_sweep"]
    photos: Annotated[list[Source], Field(min_length=1, max_length=8)] | None = None
    dataset: Source | None = None
    head: Source | None = None
    alphas: Annotated[list[Alpha], Field(min_length=1)] | None = None
    gen_seeds: Annotated[list[Seed], Field(min_length=1)] | None = None
    steps: Annotated[int, Field(ge=1)] | None = None
    guidance: Annotated[float, Field(ge=1.0, le=20.0)] | None = None
    height: Side | None = None
    width: Side | None = None
    base_prompt: str | None = None
    negative_prompt: str | None = None
    controls: bool = True
    other_photos: Annotated[list[Source], Field(max_length=8)] = []
    caption: str | None = None
    seed: Annotated[int, Field(ge=0, le=MAX_SEED)] = 123
    delivery: Literal["auto", "s3", "base64"] = "auto"
    expires_seconds: Annotated[int, Field(ge=60, le=604_800)] = 3600

    @field_validator("alphas", "gen_seeds")
    @classmethod
    def _each_once(cls, values: list[float] | list[int] | None) -> list[float] | list[int] | None:
        # As files are named: two strengths that read the same would be one file.
        names = [f"{value:g}" if isinstance(value, float) else str(value) for value in values or []]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"holds {name} twice")
        return values

    @field_validator("height", "width", "steps")
    @classmethod
    def _at_most(cls, value: int | None, info: ValidationInfo) -> int | None:
        limits = limits_of(info)
        most = limits.max_steps if info.field_name == "steps" else limits.max_side
        if value is not None and value > most:
            raise ValueError(f"must be at most {most}")
        return value

    @field_validator("base_prompt", "caption")
    @classmethod
    def _words(cls, text: str | None, info: ValidationInfo) -> str | None:
        fault = None if text is None else prompt_fault(text, str(info.field_name), limits_of(info))
        if fault is not None:
            raise fault
        return text

    @field_validator("negative_prompt")
    @classmethod
    def _short(cls, text: str | None, info: ValidationInfo) -> str | None:
        most = limits_of(info).max_prompt_chars
        if text is not None and len(text) > most:
            raise InputTooLarge(f"negative_prompt has {len(text)} characters, the limit is {most}",
                                field="negative_prompt")  # fmt: skip
        if text is not None and not is_text(text):
            raise InvalidInput("negative_prompt holds half of a surrogate pair, which is no text",
                               field="negative_prompt")  # fmt: skip
        return text

    @model_validator(mode="after")
    def _one_kind_of_people(self, info: ValidationInfo) -> InjectionSweep:
        if (self.photos is None) == (self.dataset is None):
            raise InvalidInput(
                "photos: give either photos of one person or a dataset of several", field="photos"
            )
        if self.dataset is not None:
            for name in ("other_photos", "caption"):
                if getattr(self, name):
                    raise InvalidInput(f"{name}: a dataset brings its own", field=name)
        cells = len(self.alphas or [0.0]) * len(self.gen_seeds or [0])
        self.check_cells(cells, limits_of(info).max_cells)
        return self

    def check_cells(self, cells: int, most: int) -> None:
        """Raises InputTooLarge for more pictures than a job may have, controls not counted."""
        if cells > most:
            raise InputTooLarge(
                f"alphas: {cells} cells (alphas × gen_seeds × people) are more than the limit of {most}", field="alphas"
            )

    def sources(self) -> dict[str, str]:
        """The photos to fetch, keyed as errors name them."""
        found = {f"photos[{i}]": address for i, address in enumerate(self.photos or [])}
        return found | {f"other_photos[{i}]": address for i, address in enumerate(self.other_photos)}

    def weight_sources(self) -> dict[str, str]:
        """A head that comes by address."""
        return {"head": self.head} if self.head is not None and ":" in self.head else {}

    def stored_sources(self) -> dict[str, str]:
        """A head that lies in the worker's store."""
        return {"head": self.head} if self.head is not None and ":" not in self.head else {}

    def clip_sources(self) -> dict[str, str]:
        """The dataset, under a zip's larger limit."""
        return {"dataset": self.dataset} if self.dataset is not None else {}
