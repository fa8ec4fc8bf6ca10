"""`s3Config`: a caller's own bucket, given beside `input` as RunPod's API has it."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError

from darkroom.errors import InvalidInput


class S3Config(BaseModel):
    """RunPod's names. The secrets never show in a log, a manifest or an error."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    accessId: SecretStr  # noqa: N815 - RunPod's spelling
    accessSecret: SecretStr  # noqa: N815
    bucketName: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]$")]  # noqa: N815
    endpointUrl: Annotated[str, Field(pattern=r"\Ahttps?://")]  # noqa: N815

    @classmethod
    def parse(cls, raw: Any) -> S3Config | None:
        """The caller's bucket, or None where the job names none. Raises InvalidInput naming the field."""
        if raw is None:
            return None
        try:
            return cls.model_validate(raw)
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            name = ".".join(["s3Config", *(str(part) for part in first["loc"])])
            raise InvalidInput(f"{name}: {first['msg'].lower()}", field=name) from None
