"""Fetching: what may be opened arrives whole and in time; everything else is refused by name."""

from __future__ import annotations

import base64
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from darkroom import fetch
from darkroom.errors import (
    BadJob,
    DarkroomError,
    DecodeFailed,
    FetchFailed,
    InputTooLarge,
    InvalidInput,
    UnsafeUrl,
)
from darkroom.fetch import check_public, fetch_all, fetch_image_bytes
from darkroom.jobs import Limits
from darkroom.storage import FolderStore, S3Store
from tests.fakes import http, s3
from tests.fakes.http import HOST_NAME, WebServer
from tests.fakes.s3 import S3Server

LIMITS = Limits(max_source_bytes=100_000, fetch_seconds=10.0)
HASTY = Limits(max_source_bytes=100_000, fetch_seconds=0.6)
NO_BUCKET = FolderStore(Path("never-touched"))
PHOTO = bytes(range(256)) * 100


def fetched(address: str, limits: Limits = LIMITS, *, allow_private: bool = True) -> bytes:
    return fetch_image_bytes(address, "images[1]", limits, NO_BUCKET, allow_private=allow_private)


def refused(address: str, kind: type[DarkroomError], limits: Limits = LIMITS, **options: bool) -> DarkroomError:
    """The error, which must name the field and no address."""
    with pytest.raises(kind) as failure:
        fetched(address, limits, **options)
    error = failure.value
    assert type(error) is kind
    assert error.field == "images[1]"
    assert error.message.startswith("images[1]: ")
    assert "127.0.0." not in str(error.reply())
    assert "169.254" not in str(error.reply())
    return error


@pytest.fixture(scope="module", autouse=True)
def _imported() -> None:
    """The SDK's first import takes seconds, which are not the time of the test that happens to come first."""
    fetch._rp_ssrf()


@pytest.fixture(scope="module")
def web() -> Iterator[WebServer]:
    with http.serve() as server:
        server.files["/photo.png"] = PHOTO
        server.files["/at_the_limit"] = bytes(LIMITS.max_source_bytes)
        yield server


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return http.write_certificate(tmp_path_factory.mktemp("tls"))


@pytest.fixture(scope="module")
def secure(certificate: Path) -> Iterator[WebServer]:
    with http.serve(certificate) as server:
        server.files["/photo.png"] = PHOTO
        yield server


@pytest.fixture
def trusted(certificate: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The test's certificate stands in for the public authorities."""
    monkeypatch.setattr("requests.adapters.DEFAULT_CA_BUNDLE_PATH", str(certificate))


def one_public_name(host: str, port: int) -> list[str]:
    """As if HOST_NAME were a public host: every other name is judged as in production."""
    return ["127.0.0.1"] if host == HOST_NAME else fetch.public_addresses(host, port)


def fetched_in_public(address: str) -> bytes:
    return fetch_image_bytes(address, "images[1]", LIMITS, NO_BUCKET, resolve=one_public_name)


# -- data URIs ----------------------------------------------------------------------------------


@given(data=st.binary(max_size=300), kind=st.sampled_from(["image/png", "image/*", "IMAGE/JPEG;q=1", ""]))
def test_a_data_uri_gives_its_bytes(data: bytes, kind: str) -> None:
    assert fetched(f"data:{kind};base64,{base64.b64encode(data).decode()}") == data


@pytest.mark.parametrize("body", ["abc", "ab=c", "====", "aGk=aGk=", "a b=", "aGk\n", "!!!!", "aGk-", "aGk%3D", "ää=="])
def test_broken_base64_is_refused(body: str) -> None:
    refused(f"data:image/png;base64,{body}", DecodeFailed)


@pytest.mark.parametrize("address", ["data:", "data:image/png,raw", "data:image/svg+xml;utf8,<svg/>", "data:;base64"])
def test_a_data_uri_without_base64_is_refused(address: str) -> None:
    assert "base64" in refused(address, DecodeFailed).message


@pytest.mark.parametrize("over", [0, 1, 2, 3])
def test_a_data_uri_is_measured_exactly_and_before_it_is_unpacked(over: int) -> None:
    limits = Limits(max_source_bytes=1000)
    address = "data:image/png;base64," + base64.b64encode(bytes(1000 + over)).decode()
    if over:
        refused(address, InputTooLarge, limits)
        refused(address.replace("A", "!"), InputTooLarge, limits)
    else:
        assert len(fetched(address, limits)) == 1000


# -- what is never opened -----------------------------------------------------------------------


@pytest.mark.parametrize("address", [
    "file:///etc/passwd", "FILE:///etc/passwd", "/etc/passwd", "../photo.png", "photo.png", "",
    "ftp://files.example/photo.png", "gopher://files.example/1", "javascript:alert(1)", "C:\\photo.png",
    "blob:https://files.example/1", "s3://another-bucket/photo.png",
])  # fmt: skip
@pytest.mark.parametrize("allow_private", [False, True])
def test_other_schemes_and_paths_are_unsafe(address: str, allow_private: bool) -> None:
    refused(address, UnsafeUrl, allow_private=allow_private)


@pytest.mark.parametrize("address", [
    "https://169.254.169.254/latest/meta-data/", "https://127.0.0.1/", "https://localhost/photo.png",
    "https://[::1]/", "https://[::ffff:127.0.0.1]/", "https://10.0.0.1/", "https://192.168.1.1:8443/",
    "https://100.64.0.1/", "https://0.0.0.0/", "https://2130706433/", "https://0x7f.1/", "https://[fe80::1]/",
])  # fmt: skip
def test_addresses_that_are_not_public_are_unsafe(address: str) -> None:
    refused(address, UnsafeUrl, allow_private=False)


def test_plain_http_is_unsafe_and_the_sentence_says_what_is_safe() -> None:
    for address in ("http://169.254.169.254/latest/meta-data/", "http://files.example/photo.png"):
        assert "https://" in refused(address, UnsafeUrl, allow_private=False).message


def test_the_sdks_environment_variable_opens_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RUNPOD_ALLOW_PRIVATE_DOWNLOAD_URLS", "true")
    refused("https://127.0.0.1/", UnsafeUrl, allow_private=False)


@pytest.mark.parametrize("address", ["https://user:secret@files.example/a.png", "https://user@files.example/a.png"])
def test_credentials_in_an_address_are_unsafe_and_not_repeated(address: str) -> None:
    assert "secret" not in refused(address, UnsafeUrl).message


@pytest.mark.parametrize("address", [
    "https://", "https:photo.png", "https:///photo.png", "https://[::1", "https://files.example:port/",
    "https://files.example:99999/", "https://files.example\\@127.0.0.1/", "https://files example/",
    "https://files.example/\r\nHost: other", "https://" + "a" * 70 + ".example/", "https://a.example/" + "a" * 9000,
])  # fmt: skip
def test_what_is_no_address_is_invalid(address: str) -> None:
    refused(address, InvalidInput)


@given(text=st.text(max_size=60), scheme=st.sampled_from(["", "https:", "https://", "s3://", "data:", "file://", "x:"]))
def test_any_text_is_refused_or_fetched_and_nothing_else(text: str, scheme: str) -> None:
    def nowhere(host: str, port: int) -> list[str]:
        raise UnsafeUrl("this test opens nothing")

    with suppress(BadJob):
        assert isinstance(fetch_image_bytes(scheme + text, "images[0]", LIMITS, NO_BUCKET, resolve=nowhere), bytes)


# -- the web ------------------------------------------------------------------------------------


def test_a_picture_arrives_whole(web: WebServer) -> None:
    assert fetched(f"{web.base}/photo.png") == PHOTO
    assert fetched(f"http://localhost:{web.port}/photo.png?signature=a%2Fb") == PHOTO
    assert web.asked[-1] == "/photo.png?signature=a%2Fb"


def test_a_picture_arrives_over_tls_from_the_address_that_was_checked(secure: WebServer, trusted: None) -> None:
    assert fetched_in_public(f"https://{HOST_NAME}:{secure.port}/photo.png") == PHOTO
    assert secure.headers[-1]["Host"] == f"{HOST_NAME}:{secure.port}"


def test_a_certificate_for_another_name_is_refused(secure: WebServer, trusted: None) -> None:
    def rebound(host: str, port: int) -> list[str]:
        return ["127.0.0.1"]

    with pytest.raises(FetchFailed, match="certificate"):
        fetch_image_bytes(
            f"https://another.example:{secure.port}/photo.png", "images[0]", LIMITS, NO_BUCKET, resolve=rebound
        )


def test_a_certificate_of_nobody_is_refused(secure: WebServer) -> None:
    with pytest.raises(FetchFailed, match="certificate"):
        fetched_in_public(f"https://{HOST_NAME}:{secure.port}/photo.png")


@pytest.mark.parametrize(
    "target",
    [
        "https://127.0.0.1:{port}/photo.png",
        "https://localhost:{port}/photo.png",
        "https://169.254.169.254/",
        "http://{host}:{port}/photo.png",
        "file:///etc/passwd",
        "ftp://{host}/photo.png",
        "//[::1]:{port}/photo.png",
    ],
)
def test_a_redirect_is_judged_like_an_address(secure: WebServer, trusted: None, target: str) -> None:
    secure.redirects["/moved"] = target.format(port=secure.port, host=HOST_NAME)
    asked = len(secure.asked)
    with pytest.raises(UnsafeUrl) as failure:
        fetched_in_public(f"https://{HOST_NAME}:{secure.port}/moved")
    assert failure.value.field == "images[1]"
    assert secure.asked[asked:] == ["/moved"]


@pytest.mark.parametrize("target", ["/photo.png", "photo.png", "https://{host}:{port}/photo.png"])
def test_a_safe_redirect_is_followed(secure: WebServer, trusted: None, target: str) -> None:
    secure.redirects["/moved"] = target.format(port=secure.port, host=HOST_NAME)
    assert fetched_in_public(f"https://{HOST_NAME}:{secure.port}/moved") == PHOTO


def test_redirects_end(web: WebServer) -> None:
    refused(f"{web.base}/redirects_for_ever", InvalidInput)
    refused(f"{web.base}/redirects_to_nowhere", InvalidInput)
    refused(f"{web.base}/redirects_to_no_address", InvalidInput)


@pytest.mark.parametrize("status", [400, 401, 403, 404, 410, 451, 300, 304])
def test_an_answer_that_will_not_change_is_the_callers_turn(web: WebServer, status: int) -> None:
    error = refused(f"{web.base}/status/{status}", InvalidInput)
    assert str(status) in error.message
    assert error.details["status"] == status
    assert not error.retryable


@pytest.mark.parametrize("status", [408, 425, 429, 500, 502, 503, 599])
def test_an_answer_that_may_change_can_be_retried(web: WebServer, status: int) -> None:
    error = refused(f"{web.base}/status/{status}", FetchFailed)
    assert str(status) in error.message
    assert error.retryable


def test_the_limit_of_bytes_is_exact(web: WebServer) -> None:
    assert len(fetched(f"{web.base}/at_the_limit")) == LIMITS.max_source_bytes
    refused(f"{web.base}/at_the_limit", InputTooLarge, Limits(max_source_bytes=LIMITS.max_source_bytes - 1))


@pytest.mark.parametrize("route", [
    "too_large_and_says_so", "too_large_in_thousands_of_digits", "too_large_without_a_word", "unpacks_to_far_more"
])
def test_what_is_too_large_is_left_as_soon_as_that_is_known(web: WebServer, route: str) -> None:
    start = time.monotonic()
    refused(f"{web.base}/{route}", InputTooLarge)
    assert time.monotonic() - start < 3


@pytest.mark.parametrize("route", ["never_answers", "drips_headers", "drips_body", "drips_body_of_known_length"])
def test_no_server_holds_a_worker_longer_than_its_time(web: WebServer, route: str) -> None:
    start = time.monotonic()
    error = refused(f"{web.base}/{route}", FetchFailed, HASTY)
    assert time.monotonic() - start < HASTY.fetch_seconds + 0.7
    assert "0.6 seconds" in error.message


def test_no_tls_handshake_holds_a_worker_longer_than_its_time(silent_port: int) -> None:
    with http.dripping_handshake() as dripping_port:
        for port in (silent_port, dripping_port):
            start = time.monotonic()
            refused(f"https://127.0.0.1:{port}/photo.png", FetchFailed, HASTY)
            assert time.monotonic() - start < HASTY.fetch_seconds + 0.7


def test_no_resolver_holds_a_worker_longer_than_its_time() -> None:
    done = threading.Event()

    def asleep(host: str, port: int) -> list[str]:
        done.wait(10)
        return []

    start = time.monotonic()
    with pytest.raises(FetchFailed, match="looked up"):
        fetch_image_bytes("https://photos.example/", "images[0]", HASTY, NO_BUCKET, resolve=asleep)
    assert time.monotonic() - start < HASTY.fetch_seconds + 0.7
    done.set()


@pytest.mark.parametrize("route", ["resets", "ends_early"])
def test_a_broken_connection_can_be_retried(web: WebServer, route: str) -> None:
    refused(f"{web.base}/{route}", FetchFailed)


def test_a_server_that_is_away_can_be_retried() -> None:
    refused(f"http://127.0.0.1:{s3.free_port()}/photo.png", FetchFailed)


def test_a_name_that_is_not_found_can_be_retried() -> None:
    refused("https://photos.invalid/photo.png", FetchFailed, allow_private=False)


def test_the_next_address_of_a_host_is_tried(web: WebServer) -> None:
    def two(host: str, port: int) -> list[str]:
        return ["::1", "127.0.0.1"]

    address = f"http://{HOST_NAME}:{web.port}/photo.png"
    assert fetch_image_bytes(address, "images[0]", LIMITS, NO_BUCKET, allow_private=True, resolve=two) == PHOTO


def test_nothing_of_the_environment_reaches_the_server(
    web: WebServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login someone password secret\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    assert fetched(f"{web.base}/photo.png") == PHOTO
    assert "Authorization" not in web.headers[-1]
    assert "runpod" not in str(web.headers[-1]).lower()


# -- the bucket ---------------------------------------------------------------------------------


def test_objects_of_the_workers_own_bucket_are_sources(s3_server: S3Server) -> None:
    store = S3Store(
        bucket=s3_server.bucket,
        endpoint_url=s3_server.endpoint_url,
        access_key=s3_server.access_key,
        secret=s3_server.secret,
        attempts=1,
    )
    store.put("uploads/photo.png", PHOTO, "image/png")
    base = f"s3://{s3_server.bucket}/uploads"
    assert fetch_image_bytes(f"{base}/photo.png", "images[0]", LIMITS, store) == PHOTO
    for address, kind in ((f"{base}/none.png", InvalidInput), ("s3://other-bucket/photo.png", UnsafeUrl)):
        with pytest.raises(kind) as failure:
            fetch_image_bytes(address, "images[0]", LIMITS, store)
        assert failure.value.field == "images[0]"
        assert failure.value.message.startswith("images[0]: ")
    with pytest.raises(InputTooLarge):
        fetch_image_bytes(f"{base}/photo.png", "images[0]", Limits(max_source_bytes=10), store)


# -- several ------------------------------------------------------------------------------------


def test_all_sources_arrive_side_by_side_under_their_names(web: WebServer) -> None:
    inline = "data:image/*;base64," + base64.b64encode(b"inline").decode()
    sources = {"images[0]": f"{web.base}/photo.png", "images[1]": inline}
    assert fetch_all(sources, LIMITS, NO_BUCKET, allow_private=True) == {"images[0]": PHOTO, "images[1]": b"inline"}
    assert fetch_all({}, LIMITS, NO_BUCKET) == {}
    slow = {f"images[{n}]": f"{web.base}/never_answers" for n in range(3)}
    start = time.monotonic()
    with pytest.raises(FetchFailed):
        fetch_all(slow, HASTY, NO_BUCKET, allow_private=True)
    assert time.monotonic() - start < 2 * HASTY.fetch_seconds


def test_the_first_bad_source_is_the_one_named(web: WebServer) -> None:
    sources = {"images[0]": f"{web.base}/photo.png", "images[1]": f"{web.base}/never_answers", "images[2]": "/etc"}
    with pytest.raises(FetchFailed) as failure:
        fetch_all(sources, HASTY, NO_BUCKET, allow_private=True)
    assert failure.value.field == "images[1]"


def test_a_jobs_own_bucket_must_be_public() -> None:
    for address in ("http://169.254.169.254", "https://localhost:9000"):
        with pytest.raises(UnsafeUrl) as failure:
            check_public(address, "s3Config.endpointUrl")
        assert failure.value.field == "s3Config.endpointUrl"
        check_public(address, "s3Config.endpointUrl", allow_private=True)
    check_public("http://1.1.1.1", "s3Config.endpointUrl")
