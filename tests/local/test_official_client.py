"""RunPod's own Python client, unmodified, against the local endpoint."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import aiohttp
import pytest
import requests
import runpod

from darkroom.local import start
from tests.local.conftest import Api, config_of

KEY = "a-key-of-this-test"


@pytest.fixture(scope="module")
def streams(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    """A keyed endpoint with one worker whose handler streams."""
    folder = tmp_path_factory.mktemp("streams")
    endpoint = start(config_of("streams", folder, api_key=KEY))
    api = Api(endpoint.address, folder, Authorization=f"Bearer {KEY}")
    yield api
    api.http.close()
    endpoint.stop()


@pytest.fixture
def endpoint(moody: Api, monkeypatch: pytest.MonkeyPatch) -> Iterator[runpod.Endpoint]:
    monkeypatch.setattr(runpod, "endpoint_url_base", f"{moody.address}/v2")
    endpoint = runpod.Endpoint("local", api_key="any")
    yield endpoint
    endpoint.rp_client.rp_session.close()


def test_run_status_and_output(endpoint: runpod.Endpoint) -> None:
    job = endpoint.run({"input": {"mood": "echo", "x": 1}})
    assert job.output(timeout=30)["echo"] == {"mood": "echo", "x": 1}
    assert job.status() == "COMPLETED"
    assert job.output()["echo"]["x"] == 1


def test_run_sync(endpoint: runpod.Endpoint) -> None:
    assert endpoint.run_sync({"mood": "echo"}, timeout=30)["echo"] == {"mood": "echo"}


def test_a_failure(endpoint: runpod.Endpoint) -> None:
    job = endpoint.run({"input": {"mood": "fails"}})
    assert job.output(timeout=30)["code"] == "INVALID_INPUT"
    assert job.status() == "FAILED"


def test_cancel(endpoint: runpod.Endpoint, tmp_path: Path) -> None:
    job = endpoint.run({"input": {"mood": "cancellable", "seconds": 60, "mark": str(tmp_path / "mark")}})
    assert job.cancel() == {"id": job.job_id, "status": "CANCELLED"}
    assert job.status() == "CANCELLED"


def test_health_and_purge(endpoint: runpod.Endpoint) -> None:
    health = endpoint.health()
    assert set(health["jobs"]) == {"completed", "failed", "inProgress", "inQueue", "retried"}
    assert {"idle", "running"} <= set(health["workers"])
    assert endpoint.purge_queue() == {"removed": 0, "status": "completed"}


def test_an_unknown_job_is_an_http_error(endpoint: runpod.Endpoint) -> None:
    with pytest.raises(requests.HTTPError, match="404"):
        runpod.endpoint.Job("local", "unknown", endpoint.rp_client).status()


def test_stream_and_a_key(streams: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runpod, "endpoint_url_base", f"{streams.address}/v2")
    endpoint = runpod.Endpoint("local", api_key=KEY)
    job = endpoint.run({"input": {"count": 5}})
    assert list(job.stream()) == [{"number": number} for number in range(5)]
    assert job.output() == [{"number": number} for number in range(5)]
    endpoint.rp_client.rp_session.close()
    stranger = runpod.Endpoint("local", api_key="wrong")
    with pytest.raises(RuntimeError, match="401"):
        stranger.health()
    stranger.rp_client.rp_session.close()


async def test_the_asyncio_client(streams: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runpod, "endpoint_url_base", f"{streams.address}/v2")
    async with aiohttp.ClientSession() as session:
        endpoint = runpod.AsyncioEndpoint("local", session, api_key=KEY)
        job = await endpoint.run({"count": 3})
        assert await job.status() in ("IN_QUEUE", "IN_PROGRESS", "COMPLETED")
        assert [piece async for piece in job.stream()] == [{"number": number} for number in range(3)]
        assert await job.output(timeout=30) == [{"number": number} for number in range(3)]
        assert await job.status() == "COMPLETED"
        cancelled = await endpoint.run({"count": 1_000})
        assert (await cancelled.cancel())["status"] == "CANCELLED"
        assert await cancelled.status() == "CANCELLED"
        assert (await endpoint.health())["jobs"]["completed"] >= 1
        assert (await endpoint.purge_queue())["status"] == "completed"
