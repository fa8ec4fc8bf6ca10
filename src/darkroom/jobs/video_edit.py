"""`video_edit`: a clip made frame by frame from an edited first frame and edges, steered by losses (TTLG)."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator, model_validator

from darkroom.errors import InputTooLarge, InvalidInput
from darkroom.jobs.base import JobInput, limits_of
from darkroom.jobs.image_edit import MAX_SEED, Source, is_text, prompt_fault

Scale = Annotated[float, Field(ge=0.0, le=100.0)]
Step = Annotated[int, Field(ge=0)]
Size = Annotated[int, Field(ge=32, le=4_096)]

SCALES = ("edge_scale", "gram_scale", "temporal_scale")


class Guidance(BaseModel):
    """Test-time loss guidance: how strongly each loss pulls, how far a step goes, and at which steps.

    A scale of 0 leaves its loss out; all of them 0 is no guidance, bit for bit. lr: RMS step relative to the
    latents' own size. start_step and end_step (both inclusive, counted from 0) and last_steps win over each loss's
    own window. edge_size, gram_size: longest side in pixels at which those losses look at the picture.
    """

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, allow_inf_nan=False)

    edge_scale: Scale = 0.0
    gram_scale: Scale = 0.0
    temporal_scale: Scale = 0.0
    lr: Annotated[float, Field(gt=0.0, le=10.0)] = 0.03
    every: Annotated[int, Field(ge=1)] = 1
    start_step: Step | None = None
    end_step: Step | None = None
    last_steps: Annotated[int, Field(ge=1)] | None = None
    edge_size: Size | None = None
    gram_size: Size | None = None
    iterations: Annotated[int, Field(ge=1, le=20)] = 2
    through: Literal["vae", "transformer"] = "vae"

    @model_validator(mode="after")
    def _does_something(self) -> Guidance:
        if not self.model_fields_set & set(SCALES):
            raise InvalidInput(
                "ttlg: nothing would guide; give at least one of edge_scale, gram_scale and temporal_scale",
                field="ttlg",
            )
        if self.start_step is not None and self.end_step is not None and self.start_step > self.end_step:
            raise InvalidInput(
                f"ttlg.start_step: step {self.start_step} comes after end_step {self.end_step}", field="ttlg.start_step"
            )
        return self

    @property
    def active(self) -> bool:
        """Whether any loss pulls at all."""
        return any(getattr(self, name) > 0 for name in SCALES)

    def check_steps(self, steps: int) -> None:
        """Raises InvalidInput where the window does not fit a run of so many steps."""
        for name in ("start_step", "end_step"):
            value = getattr(self, name)
            if value is not None and value >= steps:
                raise InvalidInput(
                    f"ttlg.{name}: step {value} is outside the run's steps 0…{steps - 1}", field=f"ttlg.{name}"
                )
        if self.last_steps is not None and self.last_steps > steps:
            raise InvalidInput(
                f"ttlg.last_steps: {self.last_steps} is more than the run's {steps} steps", field="ttlg.last_steps"
            )


class VideoEdit(JobInput):
    """Make a clip from an edited first frame and the edges of the others.

    edges: one picture per frame, bright lines on black, or a single zip of pictures or video of edges.
    source_video, instead of them: edges and optical flow are computed; its first frame stands for `init_image`, which
    the caller has edited. Frame 0 of the result is `init_image`; frame i follows edge frame i, counted from 1.
    max_frames: at most so many frames are made beside frame 0. fps: None takes the source's own, or 8.
    Unset steps and CFG are the profile's; an unset prompt is the model's own.
    """

    useless: ClassVar[Mapping[str, str]] = {
        "guidance_scale": "this model is not guidance-distilled, so it would do nothing; use true_cfg_scale",
        "size": "frames have the shape of init_image, at the model's own area",
        "num_images": "a video_edit makes one clip",
    }

    type: Literal["video_edit"]
    init_image: Source
    edges: Source | list[Source] | None = None
    source_video: Source | None = None
    prompt: str | None = None
    negative_prompt: str = " "
    num_inference_steps: Annotated[int, Field(ge=1)] | None = None
    true_cfg_scale: Annotated[float, Field(ge=1.0, le=20.0)] | None = None
    seed: Annotated[int, Field(ge=-1, le=MAX_SEED)] = -1
    max_frames: Annotated[int, Field(ge=1)] | None = None
    fps: Annotated[float, Field(ge=0.1, le=240.0)] | None = None
    ttlg: Guidance | None = None
    delivery: Literal["auto", "s3", "base64"] = "auto"
    expires_seconds: Annotated[int, Field(ge=60, le=604_800)] = 3600

    @field_validator("negative_prompt")
    @classmethod
    def _bounded(cls, text: str, info: ValidationInfo) -> str:
        limit = limits_of(info).max_prompt_chars
        if not is_text(text):
            raise ValueError("holds half of a surrogate pair, which is no text")
        if len(text) > limit:
            raise InputTooLarge(
                f"negative_prompt has {len(text)} characters, the limit is {limit}", field="negative_prompt"
            )
        return text

    @field_validator("num_inference_steps", "max_frames")
    @classmethod
    def _at_most(cls, value: int | None, info: ValidationInfo) -> int | None:
        limits = limits_of(info)
        most = limits.max_frames if info.field_name == "max_frames" else limits.max_steps
        if value is not None and value > most:
            raise ValueError(f"must be at most {most}")
        return value

    @field_validator("prompt")
    @classmethod
    def _good_prompt(cls, prompt: str | None, info: ValidationInfo) -> str | None:
        fault = None if prompt is None else prompt_fault(prompt, "prompt", limits_of(info))
        if fault is not None:
            raise fault
        return prompt

    @model_validator(mode="after")
    def _one_kind_of_frames(self, info: ValidationInfo) -> VideoEdit:
        if (self.edges is None) == (self.source_video is None):
            both = "give either edges or source_video, not both" if self.edges is not None else (
                "give edges (a list of pictures, a zip or a video) or source_video"
            )  # fmt: skip
            raise InvalidInput(f"edges: {both}", field="edges")
        if isinstance(self.edges, list):
            self._count_edges(self.edges, limits_of(info).max_frames)
        if self.ttlg is not None and self.num_inference_steps is not None:
            self.ttlg.check_steps(self.num_inference_steps)
        return self

    def _count_edges(self, edges: list[str], most: int) -> None:
        if not edges:
            raise InvalidInput("edges: the list is empty; at least one edge frame is needed", field="edges")
        if len(edges) > most:
            raise InputTooLarge(f"edges: the list has {len(edges):,} frames, the limit is {most:,}", field="edges")

    def sources(self) -> dict[str, str]:
        """The pictures to fetch, keyed as errors name them; a list's frames beyond max_frames are left alone."""
        found = {"init_image": self.init_image}
        if isinstance(self.edges, list):
            found |= {f"edges[{i}]": address for i, address in enumerate(self.edges[: self.max_frames])}
        return found

    def clip_sources(self) -> dict[str, str]:
        """The zip or video to fetch, under its larger limit."""
        clip = self.edges if isinstance(self.edges, str) else None
        named = {"edges": clip, "source_video": self.source_video}
        return {name: address for name, address in named.items() if address is not None}


def frame_seed(seed: int, frame: int) -> int:
    """The seed of one frame's noise: the first 8 bytes, big-endian, of SHA-256("{seed}/{frame}"), without the sign bit.

    So a frame's noise depends on the job's seed and its own number alone, whoever makes it and after whatever pause.
    """
    digest = hashlib.sha256(f"{seed}/{frame}".encode()).digest()
    return int.from_bytes(digest[:8], "big") & MAX_SEED
