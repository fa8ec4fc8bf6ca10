"""Fixtures that several rooms' tests share. Servers are real ones on loopback, ended with the session."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fakes import http, s3
from tests.fakes.http import WebServer
from tests.fakes.s3 import S3Server


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """A real S3 server with one bucket; tests keep apart by prefix."""
    server = s3.start(tmp_path_factory.mktemp("s3") / "root")
    yield server
    server.stop()


@pytest.fixture(scope="session")
def web_server() -> Iterator[WebServer]:
    """A plain HTTP server whose routes misbehave (tests/fakes/http.py); loopback, so private."""
    with http.serve() as server:
        yield server


@pytest.fixture
def silent_port() -> Iterator[int]:
    """A port that takes connections and never says a word."""
    with http.silence() as port:
        yield port


@pytest.fixture(scope="session")
def family(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pocket checkpoint with seeded random weights: noise to look at, but every law of the engine holds for it."""
    from darkroom.pocket.family import build

    return build(tmp_path_factory.mktemp("family") / "edit", seed=0)


@pytest.fixture(scope="session")
def image_family(family: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same parts as Qwen/Qwen-Image lies on the hub: no processor, since it looks at no pictures."""
    folder = tmp_path_factory.mktemp("image")
    for part in ("transformer", "vae", "text_encoder", "tokenizer", "scheduler"):
        (folder / part).symlink_to(family / part)
    return folder


@pytest.fixture(scope="session")
def vision_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pocket Qwen3-VL with seeded random weights."""
    from darkroom.pocket.qwen3vl import build

    return build(tmp_path_factory.mktemp("vision") / "qwen3vl", seed=0)
