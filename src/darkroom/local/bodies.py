"""What clients may send: one reading of a request's body, with a sentence for everything that is wrong."""

from __future__ import annotations

import json
import uuid
from typing import Any
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from darkroom.errors import InvalidInput
from darkroom.local.config import EndpointConfig
from darkroom.local.job import NewJob


class Policy(BaseModel):
    """A job's `policy`, in milliseconds as on the platform."""

    model_config = ConfigDict(strict=True, extra="ignore", frozen=True, allow_inf_nan=False)

    execution_timeout: float | None = Field(default=None, alias="executionTimeout")
    ttl: float | None = None
    low_priority: bool = Field(default=False, alias="lowPriority")


def parse_json(data: bytes) -> Any:
    """The value of a JSON text; NaN and Infinity are refused, as by every other JSON parser.

    Raises ValueError.
    """
    return json.loads(data, parse_constant=_refuse)


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is not JSON")


def parse_run(data: bytes, config: EndpointConfig, *, sync: bool) -> NewJob:
    """A body of /run or /runsync as a job. Raises InvalidInput with a sentence for the caller."""
    try:
        body = parse_json(data)
    except (ValueError, RecursionError):
        raise InvalidInput("the body is not valid JSON") from None
    if not isinstance(body, dict):
        raise InvalidInput("the body must be a JSON object with the key 'input'")
    if not isinstance(body.get("input"), dict):
        wrong = "must be a JSON object" if "input" in body else "is missing"
        raise InvalidInput(f"'input' {wrong}; a request is {{\"input\": {{…}}}}", field="input")
    policy = _policy(body.get("policy"))
    limits = config.limits
    timeout = _seconds("executionTimeout", policy.execution_timeout, config.execution_timeout_seconds,
                       limits.execution_timeout_min_seconds, limits.execution_timeout_max_seconds)
    return NewJob(
        id=("sync-" if sync else "") + f"{uuid.uuid4()}-u1",
        input=json.dumps(body["input"]),
        s3_config=_s3_config(body.get("s3Config")),
        webhook=_webhook(body.get("webhook")),
        low_priority=policy.low_priority,
        execution_timeout=timeout,
        ttl=_seconds("ttl", policy.ttl, limits.ttl_seconds, limits.ttl_min_seconds, limits.ttl_max_seconds),
        keep=limits.keep_sync_seconds if sync else limits.keep_async_seconds,
        sync=sync,
    )


def parse_wait(wait: str | None, config: EndpointConfig) -> float:
    """Seconds of /runsync's ?wait= (milliseconds). Raises InvalidInput outside the platform's range."""
    limits = config.limits
    if wait is None:
        return limits.wait_seconds
    if not (wait.isascii() and wait.isdigit()):
        raise InvalidInput("'wait' must be a whole number of milliseconds", field="wait")
    return _seconds("wait", int(wait), 0.0, limits.wait_min_seconds, limits.wait_max_seconds)


def _policy(value: object) -> Policy:
    try:
        return Policy.model_validate({} if value is None else value)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(["policy", *map(str, first["loc"][:1])])
        raise InvalidInput(f"'{field}': {first['msg']}", field=field) from None


def _seconds(name: str, value: float | None, default: float, least: float, most: float) -> float:
    if value is None:
        return default
    if not least <= value / 1000 <= most:
        raise InvalidInput(f"'{name}' must be between {1000 * least:.0f} and {1000 * most:.0f} milliseconds",
                           field=name)
    return value / 1000


def _webhook(value: object) -> str | None:
    if value is None:
        return None
    try:
        parts = urlsplit(value) if isinstance(value, str) else None
        fine = parts is not None and parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
        str(value).encode()
    except ValueError:  # a port that is no number, brackets that do not close, half of a surrogate pair
        fine = False
    if not fine:
        raise InvalidInput("'webhook' must be an http or https address", field="webhook")
    return str(value)


def _s3_config(value: object) -> str | None:
    if value is None:
        return None
    if not isinstance(value, dict):
        raise InvalidInput("'s3Config' must be a JSON object", field="s3Config")
    return json.dumps(value)
