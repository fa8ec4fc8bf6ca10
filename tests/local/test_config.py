"""Settings fail at start, with a sentence."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from darkroom.local import CannotStart, EndpointConfig, start
from darkroom.local.running import reveal


@pytest.mark.parametrize(("settings", "sentence"), [
    ({"host": "0.0.0.0"}, "opens this endpoint to other machines, so an API key is required"),
    ({"host": "192.168.1.5"}, "API key is required"),
    ({"host": "example.org"}, "API key is required"),
    ({"host": "::"}, "API key is required"),
    ({"api_key": " "}, "must not be empty"),
    ({"workers_min": 2, "workers_max": 1}, "workers_min"),
    ({"ping_timeout_seconds": 10}, "two ping intervals"),
    ({"command": ()}, "command"),
    ({"public_url": "not an address"}, "public_url"),
    ({"public_url": "https://gpu.example.org"}, "reach gpu.example.org, so an API key is required"),
    ({"public_url": "http://192.168.1.5:8000"}, "API key is required"),
    ({"store": "results", "data": "results/endpoint"}, "lies in the store"),
    ({"store": "results", "data": "results"}, "lies in the store"),
    ({"store": ".", "data": "queue"}, "lies in the store"),
    ({"store": ".hidden", "data": ".hidden/queue"}, "lies in the store"),
    ({"endpoint_id": "a/b"}, "endpoint_id"),
    ({"colour": "red"}, "colour"),
])
def test_a_setting_that_makes_no_sense_is_refused(settings: dict, sentence: str) -> None:
    with pytest.raises(ValidationError, match=sentence):
        EndpointConfig(**{"command": ("x",), **settings})


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "127.0.0.2", "::1"])
def test_loopback_needs_no_key(host: str) -> None:
    assert EndpointConfig(command=("x",), host=host).api_key is None


@pytest.mark.parametrize("settings", [
    {"public_url": "http://localhost:9000"}, {"public_url": "http://[::1]:9000"},
    {"public_url": "https://gpu.example.org", "api_key": "k"},
    {"store": "results", "data": "results/.endpoint"}, {"store": "results", "data": "results/.a/b"},
    {"store": "results/store", "data": "results"}, {"store": "results", "data": "results-of-old"},
    {"store": None, "data": "results"},
])
def test_what_shows_nothing_to_strangers_is_fine(settings: dict) -> None:
    EndpointConfig(command=("x",), **settings)


def test_another_address_with_a_key_is_fine_and_the_key_stays_hidden() -> None:
    config = EndpointConfig(command=("x",), host="0.0.0.0", api_key="s3cr3t")
    assert "s3cr3t" not in repr(config)
    assert "s3cr3t" not in config.model_dump_json()
    assert EndpointConfig.model_validate_json(reveal(config)) == config


def test_two_endpoints_cannot_share_a_queue_or_a_port(tmp_path) -> None:
    def config(**changes: object) -> EndpointConfig:
        return EndpointConfig(**{"command": ("x",), "port": 0, "workers_max": 0, "data": tmp_path / "one",
                                 "store": None, **changes})

    first = start(config())
    try:
        with pytest.raises(CannotStart, match="another endpoint uses the data folder"):
            start(config())
        port = int(first.address.rsplit(":", 1)[1])
        with pytest.raises(CannotStart, match=f"cannot listen on 127.0.0.1, port {port}"):
            start(config(port=port, data=tmp_path / "two"))
    finally:
        first.stop()
