"""What clients may send, and the sentence for everything else."""

from __future__ import annotations

import contextlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from darkroom.errors import InvalidInput
from darkroom.local.bodies import parse_run, parse_wait
from darkroom.local.config import EndpointConfig
from darkroom.local.job import NewJob

CONFIG = EndpointConfig(command=("x",))


def parse(body: object, *, sync: bool = False) -> NewJob:
    return parse_run(json.dumps(body).encode(), CONFIG, sync=sync)


def test_the_platforms_defaults_apply() -> None:
    job = parse({"input": {}})
    assert (job.execution_timeout, job.ttl, job.keep, job.low_priority) == (7_500, 86_400, 1_800, False)
    assert parse({"input": {}}, sync=True).keep == 60


def test_ids_look_as_on_the_platform() -> None:
    assert parse({"input": {}}).id.endswith("-u1")
    assert parse({"input": {}}, sync=True).id.startswith("sync-")


def test_a_policy_is_in_milliseconds() -> None:
    job = parse({"input": {}, "policy": {"executionTimeout": 5_500, "ttl": 10_000, "lowPriority": True}})
    assert (job.execution_timeout, job.ttl, job.low_priority) == (5.5, 10.0, True)


@pytest.mark.parametrize(("body", "sentence"), [
    ([], "must be a JSON object"),
    ("x", "must be a JSON object"),
    ({}, "'input' is missing"),
    ({"input": None}, "'input' must be"),
    ({"input": [1]}, "'input' must be"),
    ({"input": {}, "policy": []}, "'policy'"),
    ({"input": {}, "policy": {"ttl": "10000"}}, "'policy.ttl'"),
    ({"input": {}, "policy": {"ttl": 9_999}}, "'ttl' must be between 10000 and 604800000 milliseconds"),
    ({"input": {}, "policy": {"ttl": 604_800_001}}, "'ttl' must be between"),
    ({"input": {}, "policy": {"executionTimeout": 4_999}}, "'executionTimeout' must be between 5000"),
    ({"input": {}, "policy": {"executionTimeout": True}}, "'policy.executionTimeout'"),
    ({"input": {}, "policy": {"lowPriority": 1}}, "'policy.lowPriority'"),
    ({"input": {}, "webhook": "ftp://x/"}, "'webhook' must be an http or https address"),
    ({"input": {}, "webhook": "http://["}, "'webhook'"),
    ({"input": {}, "webhook": "http://x:99999/"}, "'webhook'"),
    ({"input": {}, "webhook": 3}, "'webhook'"),
    ({"input": {}, "webhook": "http://a/\ud800"}, "'webhook'"),
    ({"input": {}, "s3Config": "x"}, "'s3Config'"),
])
def test_a_wrong_body_is_named(body: object, sentence: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        parse(body)
    assert sentence in refused.value.message


@pytest.mark.parametrize("data", [b"", b"{", b"\xff\xfe", b'{"input": {"x": NaN}}', b"[" * 100_000])
def test_what_is_no_json_is_refused(data: bytes) -> None:
    with pytest.raises(InvalidInput, match="not valid JSON"):
        parse_run(data, CONFIG, sync=False)


@given(st.binary(max_size=200))
def test_no_bytes_break_the_reading(data: bytes) -> None:
    with contextlib.suppress(InvalidInput):
        parse_run(data, CONFIG, sync=True)


@given(st.dictionaries(st.text(), st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=8)))
def test_an_input_arrives_as_it_was_sent(value: dict) -> None:
    assert json.loads(parse({"input": value}).input) == value


@pytest.mark.parametrize("wait", ["0", "999", "300001", "-1", "1e3", "x", "١٠٠٠"])
def test_a_wait_outside_the_platforms_range_is_refused(wait: str) -> None:
    with pytest.raises(InvalidInput, match="'wait' must be"):
        parse_wait(wait, CONFIG)


def test_a_wait_is_in_milliseconds() -> None:
    assert parse_wait("1500", CONFIG) == 1.5
    assert parse_wait(None, CONFIG) == 90
