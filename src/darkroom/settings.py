"""Every setting of Darkroom, read once from the environment. The only reader of os.environ.

Precedence: explicit arguments, then the environment, then the defaults below. A value that makes
no sense stops the program at start with the variable's name, not a job halfway through.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import (
    AliasChoices,
    Field,
    NonNegativeFloat,
    PositiveFloat,
    PositiveInt,
    SecretStr,
    field_validator,
    model_validator,
)
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

ProfileName = Literal["auto", "pocket", "l4", "a6000", "a100", "h200", "rtx3090"]
PrecisionName = Literal["float32", "bf16", "fp8", "fp8_storage", "int8", "int4"]
AttentionName = Literal["auto", "native", "cudnn", "flash", "flash3"]
ROLES = ("edit", "video", "image")
"""Models that make pictures, which a worker can load ahead."""
MODELS = (*ROLES, "vision")
"""All that a worker loads."""
RUNPOD_DOMAINS = (".runpod.ai", ".runpod.io")


class Settings(BaseSettings):
    """Frozen settings. `DARKROOM_<FIELD>` unless an alias says otherwise; empty values count as unset."""

    model_config = SettingsConfigDict(
        env_prefix="DARKROOM_", frozen=True, extra="ignore", env_ignore_empty=True, populate_by_name=True
    )

    # -- models ---------------------------------------------------------------------------------
    profile: ProfileName = "auto"
    edit_model: str | None = None
    """Hugging Face id or local folder for image_edit; None takes the profile's (as does the next)."""
    edit_revision: str | None = None
    video_model: str | None = None
    video_revision: str | None = None
    image_model: str | None = None
    """For image_generate and the injection jobs."""
    image_revision: str | None = None
    vision_model: str | None = None
    """Qwen3-VL, for the injection jobs and bridges."""
    vision_revision: str | None = None
    precision: PrecisionName | None = None
    """How weights are stored and computed with; None takes the profile's."""
    preload: Annotated[tuple[str, ...], NoDecode] = ("edit",)
    """Roles loaded at start, comma separated; the others load with their first job."""
    memory_budget_gib: PositiveFloat | None = None
    """Memory that models may occupy; None takes the device's own size less the profile's reserve."""
    cache_mib: NonNegativeFloat | None = None
    """Memory of the machine for encodings of pictures and prompts; 0 keeps none, None takes the profile's."""
    lora_dir: Path | None = None
    """Folder whose .safetensors files a job may name by file name."""
    threads: PositiveInt | None = None
    """CPU threads for torch; None leaves torch's own choice."""
    attention: AttentionName = "auto"
    """Kernel of the transformer's attention; auto takes cuDNN's from Hopper on, else torch's own choice."""
    cache_dir: Path | None = None
    """Keeps modulation tables and compiled code from start to start; on a network volume workers share them."""
    gpus: PositiveInt = 1
    """GPUs that share every step of a job: one process each, which this worker starts and ends (models.crew)."""
    exact: bool = False
    """Results bit for bit as diffusers' pipeline makes them on this device: no lever that rounds otherwise."""
    hf_token: SecretStr | None = Field(default=None, validation_alias=AliasChoices("HF_TOKEN", "DARKROOM_HF_TOKEN"))
    hf_home: Path | None = Field(default=None, validation_alias=AliasChoices("HF_HOME", "DARKROOM_HF_HOME"))

    # -- storage --------------------------------------------------------------------------------
    store: str = "./results"
    """A folder (path or file:// URL) or s3://bucket/prefix."""
    public_url: str | None = None
    """Where a folder store is served over HTTP; without it a folder has no links."""
    bucket_endpoint_url: str | None = Field(
        default=None, validation_alias=AliasChoices("BUCKET_ENDPOINT_URL", "DARKROOM_BUCKET_ENDPOINT_URL")
    )
    bucket_access_key_id: SecretStr | None = Field(
        default=None, validation_alias=AliasChoices("BUCKET_ACCESS_KEY_ID", "DARKROOM_BUCKET_ACCESS_KEY_ID")
    )
    bucket_secret_access_key: SecretStr | None = Field(
        default=None, validation_alias=AliasChoices("BUCKET_SECRET_ACCESS_KEY", "DARKROOM_BUCKET_SECRET_ACCESS_KEY")
    )
    bucket_region: str = "us-east-1"
    spool: Path = Path("./results/.spool")
    """Finished results wait here while the store is down."""
    spool_gib: PositiveFloat = 5.0
    """The most that waits there; beyond it the oldest go."""
    upload_attempts: PositiveInt = 5
    upload_timeout_seconds: PositiveFloat = 30.0

    # -- limits ---------------------------------------------------------------------------------
    max_steps: PositiveInt = 200
    max_prompts: PositiveInt = 16
    max_prompt_chars: PositiveInt = 8_000
    max_images_per_prompt: PositiveInt = 8
    max_loras: PositiveInt = 4
    max_cells: PositiveInt = 100
    max_frames: PositiveInt = 2_000
    max_side: PositiveInt | None = None
    """Longest side of an output in pixels; None takes the profile's (1,024 pocket, 2,048 else)."""
    max_source_mib: PositiveFloat = 32.0
    max_source_megapixels: PositiveFloat = 64.0
    fetch_seconds: PositiveFloat = 20.0
    job_seconds: PositiveFloat = 3_600.0
    """A job that runs longer, or waits so long for another worker's result, ends with TIMEOUT between two steps."""
    max_result_mb: PositiveFloat = 9.5
    """Largest reply in 10^6 bytes; RunPod loses what is over 10 MB (/run)."""
    max_lora_mib: PositiveFloat = 2_048.0
    fetch_lora_seconds: PositiveFloat = 300.0
    max_clip_mib: PositiveFloat = 256.0
    """One video or zip of frames, or all frames of a list together."""
    fetch_clip_seconds: PositiveFloat = 120.0
    allow_private_urls: bool = False
    """Let sources come from addresses that are not public. For tests and closed networks only."""

    # -- platform: set by RunPod, read and never written ------------------------------------------
    runpod_post_output: str | None = Field(default=None, validation_alias="RUNPOD_WEBHOOK_POST_OUTPUT")

    # -- service --------------------------------------------------------------------------------
    concurrency: PositiveInt = 2
    """Jobs that a worker takes at a time. One holds the torch thread; the others fetch, encode and store beside it."""
    progress_seconds: PositiveFloat = 0.5
    """At most one progress update per so many seconds."""
    gpu_name: str | None = None
    """Overrides the card's name for the price table."""
    gpu_usd_per_second: PositiveFloat | None = None
    """Overrides the price table."""
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"

    @field_validator("preload", mode="before")
    @classmethod
    def _comma_separated(cls, value: object) -> object:
        if isinstance(value, str):
            return tuple(part.strip() for part in value.split(",") if part.strip())
        return value

    @field_validator("preload")
    @classmethod
    def _known_roles(cls, roles: tuple[str, ...]) -> tuple[str, ...]:
        for role in roles:
            if role not in ROLES:
                raise ValueError(f"unknown role {role!r}; known are {', '.join(ROLES)}")
        return roles

    @field_validator("store")
    @classmethod
    def _store_address(cls, store: str) -> str:
        scheme, mark, rest = store.partition("://")
        if mark and (scheme not in ("file", "s3") or not rest.strip("/")):
            raise ValueError("DARKROOM_STORE is a folder, a file:// URL or s3://bucket/prefix")
        return store

    @model_validator(mode="after")
    def _bucket_is_whole(self) -> Settings:
        if (self.bucket_access_key_id is None) != (self.bucket_secret_access_key is None):
            raise ValueError("BUCKET_ACCESS_KEY_ID and BUCKET_SECRET_ACCESS_KEY must be set together")
        return self

    @property
    def on_runpod(self) -> bool:
        """Whether RunPod's own platform has started this worker: a local endpoint names an address of its own."""
        host = urlsplit(self.runpod_post_output or "").hostname or ""
        return host.endswith(RUNPOD_DOMAINS)

    def export_hub_environment(self) -> None:
        """Hand HF_TOKEN and HF_HOME to the hub libraries; must run before they are imported."""
        if self.hf_home is not None:
            os.environ["HF_HOME"] = str(self.hf_home)
        if self.hf_token is not None:
            os.environ["HF_TOKEN"] = self.hf_token.get_secret_value()
