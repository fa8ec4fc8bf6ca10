"""`health` and `warmup`: the state of a worker, and getting it ready ahead of traffic."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from darkroom.jobs.base import JobInput

Role = Literal["edit", "video", "image"]


class Health(JobInput):
    """Report every model's state, memory and versions; loads nothing."""

    type: Literal["health"]


class Warmup(JobInput):
    """Load models and run each once, so that the next job finds them warm.

    Without `models` the roles that the worker preloads at start are meant.
    """

    type: Literal["warmup"]
    models: Annotated[list[Role], Field(min_length=1)] | None = None
