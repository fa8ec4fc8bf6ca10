"""What a local endpoint is told at start. Frozen, checked before anything runs."""

from __future__ import annotations

import ipaddress
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import (
    AnyHttpUrl,
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    SecretStr,
    TypeAdapter,
    field_validator,
    model_validator,
)

MIB = 2**20
Scaler = Literal["request_count", "queue_delay"]


class Limits(BaseModel):
    """The platform's limits; tests and closed networks may move them. Seconds and bytes."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    run_bytes: PositiveInt = 10 * MIB
    """Largest request to /run, and largest result of its job."""
    runsync_bytes: PositiveInt = 20 * MIB
    """The same for /runsync."""
    keep_async_seconds: PositiveFloat = 1_800.0
    """How long the result of a /run job can be asked for."""
    keep_sync_seconds: PositiveFloat = 60.0
    wait_seconds: PositiveFloat = 90.0
    """How long /runsync holds the request unless ?wait= says otherwise."""
    wait_min_seconds: PositiveFloat = 1.0
    wait_max_seconds: PositiveFloat = 300.0
    execution_timeout_min_seconds: PositiveFloat = 5.0
    execution_timeout_max_seconds: PositiveFloat = 604_800.0
    ttl_seconds: PositiveFloat = 86_400.0
    ttl_min_seconds: PositiveFloat = 10.0
    ttl_max_seconds: PositiveFloat = 604_800.0
    queue_free: NonNegativeInt = 50
    """So many jobs may always wait; beyond them /run answers 429 once `queue_per_worker` is passed too."""
    queue_per_worker: PositiveInt = 500
    webhook_attempts: PositiveInt = 3
    webhook_delay_seconds: NonNegativeFloat = 10.0
    webhook_timeout_seconds: PositiveFloat = 10.0


class CannotStart(RuntimeError):
    """The endpoint cannot run here: its port or its data folder is taken. Says which in one sentence."""


class EndpointConfig(BaseModel):
    """A local endpoint: where it listens, what a worker is, how many there may be.

    Raises pydantic's ValidationError (a ValueError) with a sentence for each setting that makes no sense.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    command: Annotated[tuple[str, ...], Field(min_length=1)]
    """How a worker is started, such as (sys.executable, "handler.py")."""
    env: dict[str, str] = {}
    """Added to the environment that workers inherit."""
    cwd: Path | None = None
    """The workers' working folder; None is this process's own."""

    host: str = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65_535)] = 8000
    """0 takes a free port."""
    endpoint_id: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,64}$")] = "local"
    api_key: SecretStr | None = None
    """Required of clients when set; must be set unless `host` and `public_url` are this machine's own loopback."""
    public_url: str | None = None
    """The address under which clients reach this endpoint; None is host and port."""

    data: Path = Path("results/.endpoint")
    """Queue and logs. One endpoint at a time may use a folder; inside `store` only under a name with a dot first."""
    store: Path | None = Path("results")
    """The results folder, served under /files/; None leaves DARKROOM_STORE to the environment (S3)."""

    workers_min: NonNegativeInt = 0
    workers_max: Annotated[int, Field(ge=0, le=64)] = 1
    idle_timeout_seconds: NonNegativeFloat = 60.0
    scaler: Scaler = "request_count"
    scaler_value: PositiveFloat = 1.0
    """Jobs per worker (request_count), or seconds that a job may wait before a worker is added (queue_delay)."""
    execution_timeout_seconds: PositiveFloat = 7_500.0
    """For jobs whose policy names none: two jobs of DARKROOM_JOB_SECONDS and 300 s, as docs/deploy.md sets it."""
    stop_grace_seconds: PositiveFloat = 15.0
    """A worker told to stop a job that still holds it after so long is killed."""
    drain_seconds: NonNegativeFloat = 30.0
    """How long running jobs may go on when the endpoint is told to stop."""
    boot_timeout_seconds: PositiveFloat = 900.0
    """A worker that has not asked for a job after so long is killed."""
    ping_interval_seconds: PositiveInt = 5
    ping_timeout_seconds: PositiveFloat = 30.0
    """A worker without a heartbeat for so long is dead."""
    max_attempts: PositiveInt = 3
    """A job whose worker died so many times fails."""
    poll_seconds: Annotated[float, Field(gt=0.0, le=60.0)] = 20.0
    """How long job-take is held open. The SDK gives up after 90 s; a job in that answer would be lost."""
    limits: Limits = Limits()

    @field_validator("public_url")
    @classmethod
    def _http_address(cls, address: str | None) -> str | None:
        if address is None:
            return None
        TypeAdapter(AnyHttpUrl).validate_python(address)
        return address.rstrip("/")

    @field_validator("api_key")
    @classmethod
    def _key_says_something(cls, key: SecretStr | None) -> SecretStr | None:
        if key is not None and not key.get_secret_value().strip():
            raise ValueError("an API key must not be empty")
        return key

    @model_validator(mode="after")
    def _makes_sense(self) -> EndpointConfig:
        if not is_loopback(self.host) and self.api_key is None:
            raise ValueError(
                f"listening on {self.host} opens this endpoint to other machines, so an API key is required; "
                "set one or listen on 127.0.0.1"
            )
        public_host = urlsplit(self.public_url or "").hostname
        if public_host is not None and not is_loopback(public_host) and self.api_key is None:
            raise ValueError(
                f"public_url opens this endpoint to all who reach {public_host}, so an API key is required; "
                "set one or leave public_url out"
            )
        if self.store is not None and _shows(self.store, self.data):
            raise ValueError(
                f"the data folder {self.data} lies in the store {self.store}, whose files are served: name it outside "
                "of the store, or with a name that starts with a dot"
            )
        if self.workers_min > self.workers_max:
            raise ValueError(f"workers_min ({self.workers_min}) exceeds workers_max ({self.workers_max})")
        if self.ping_timeout_seconds <= 2 * self.ping_interval_seconds:
            raise ValueError("ping_timeout_seconds must exceed two ping intervals, or healthy workers are killed")
        return self


def _shows(store: Path, data: Path) -> bool:
    """Whether `data` could be read under /files/, which serves all of `store` but what starts with a dot."""
    inside, root = data.resolve(), store.resolve()
    return inside.is_relative_to(root) and not any(part.startswith(".") for part in inside.relative_to(root).parts)


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach `host`; a name other than localhost is taken to be public."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
