from __future__ import annotations

import base64
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from darkroom.service import Service
from darkroom.settings import Settings
from tests.fakes.s3 import S3Server

PHOTO = Path(__file__).parent.parent / "assets" / "astronaut.jpg"
MakeService = Callable[..., Service]


def data_uri(data: bytes, media_type: str = "image/jpeg") -> str:
    return f"data:{media_type};base64,{base64.b64encode(data).decode()}"


def edit_job(job_id: str = "job-1", **fields: Any) -> dict[str, Any]:
    """A cheap image_edit as RunPod hands it to a handler."""
    given = {
        "images": [data_uri(PHOTO.read_bytes())],
        "prompt": "make it red",
        "seed": 5,
        "num_inference_steps": 1,
        "true_cfg_scale": 1.0,
        "negative_prompt": "",
        **fields,
    }
    return {"id": job_id, "input": given}


@pytest.fixture(scope="session")
def first_service(family: Path, tmp_path_factory: pytest.TempPathFactory) -> Service:
    folder = tmp_path_factory.mktemp("service")
    return Service(
        Settings(
            profile="pocket",
            edit_model=str(family),
            video_model=str(family),
            image_model=str(family),
            store=str(folder / "store"),
            spool=folder / "spool",
        )
    )


@pytest.fixture
def make_service(first_service: Service, family: Path, tmp_path: Path) -> MakeService:
    """Services with a store and spool of their own that share one loaded shelf."""

    def make(**settings: Any) -> Service:
        own = {
            "profile": "pocket",
            "edit_model": str(family),
            "video_model": str(family),
            "image_model": str(family),
            "store": str(tmp_path / "store"),
            "spool": tmp_path / "spool",
            "upload_attempts": 1,
            "upload_timeout_seconds": 2.0,
        }
        service = Service(Settings(**{**own, **settings}))
        service.shelf = first_service.shelf
        return service

    return make


def stored(tmp_path: Path) -> list[str]:
    """Every file in the folder store, relative to it."""
    root = tmp_path / "store"
    return sorted(str(path.relative_to(root)) for path in root.rglob("*") if path.is_file()) if root.exists() else []


def bucket_settings(server: S3Server, prefix: str) -> dict[str, Any]:
    """Settings of a worker whose store is a prefix of the test server's bucket."""
    return {
        "store": f"s3://{server.bucket}/{prefix}",
        "bucket_endpoint_url": server.endpoint_url,
        "bucket_access_key_id": server.access_key,
        "bucket_secret_access_key": server.secret,
    }
