"""The rules that all job types share: strict types, unknown fields refused, frozen once parsed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Annotated, ClassVar

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo

from darkroom.jobs.limits import Limits

_NOT_THE_RESULT = {"idempotency_key", "delivery", "expires_seconds"}
IdempotencyKey = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,128}$")]


def limits_of(info: ValidationInfo) -> Limits:
    """The limits that `parse` handed down, or the defaults where a model is built by hand."""
    context = info.context or {}
    limits = context.get("limits")
    return limits if isinstance(limits, Limits) else Limits()


class JobInput(BaseModel):
    """Base of all requests.

    `aliases` maps spellings of earlier clients to today's field; `useless` maps fields that other
    services have, but which would do nothing here, to the advice that the error gives.
    """

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, allow_inf_nan=False)

    aliases: ClassVar[Mapping[str, str]] = {}
    useless: ClassVar[Mapping[str, str]] = {}

    type: str
    idempotency_key: IdempotencyKey | None = None

    def request_hash(self) -> str:
        """SHA-256 of what the caller asked for and what decides the result.

        Fields at their defaults are left out, so that a release with another field or default still knows the request.
        """
        fields = self.model_dump(mode="json", exclude=_NOT_THE_RESULT, exclude_defaults=True)
        return hashlib.sha256(json.dumps({**fields, "type": self.type}, sort_keys=True).encode()).hexdigest()

    def sources(self) -> dict[str, str]:
        """Field name -> address of every picture or video that must be fetched before the recipe runs."""
        return {}

    def weight_sources(self) -> dict[str, str]:
        """Field name -> address of every LoRA that comes by https or from the bucket."""
        return {}

    def stored_sources(self) -> dict[str, str]:
        """Field name -> key of every file that an earlier job has left in the worker's store."""
        return {}

    def clip_sources(self) -> dict[str, str]:
        """Field name -> address of every video or archive, which has a larger limit than a picture."""
        return {}
