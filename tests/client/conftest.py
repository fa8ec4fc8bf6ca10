from collections.abc import Iterator
from pathlib import Path

import pytest

from darkroom.client import Client, Polling, Retry
from tests.client.fake_endpoint import FakeEndpoint, FakeServer, picture

IMPATIENT = Retry(attempts=4, job_attempts=3, base_seconds=0.01, most_seconds=0.02, patience_seconds=2.0)
EAGER = Polling(least_seconds=0.005, most_seconds=0.02)


@pytest.fixture(scope="session")
def server() -> Iterator[FakeServer]:
    running = FakeServer()
    yield running
    running.stop()


@pytest.fixture
def endpoint(server: FakeServer) -> Iterator[FakeEndpoint]:
    with server.serving(FakeEndpoint()) as fake:
        yield fake


@pytest.fixture
def client(endpoint: FakeEndpoint) -> Iterator[Client]:
    with Client(endpoint.url, retry=IMPATIENT, polling=EAGER) as ready:
        yield ready


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    path = tmp_path / "photo.png"
    path.write_bytes(picture("photo"))
    return path
