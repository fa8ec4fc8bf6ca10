"""Storage: what is put is what is got, by key and by link; what fails says so and gives nothing away."""

from __future__ import annotations

import errno
import hashlib
import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest

from darkroom import storage
from darkroom.errors import FetchFailed, InputTooLarge, UnsafeUrl, UploadFailed
from darkroom.settings import Settings
from darkroom.storage import FolderStore, MissingKey, S3Store, Store, open_store, store_of
from tests.fakes import conditional_s3, s3
from tests.fakes.s3 import S3Server

AWKWARD_KEYS = [
    "job/frames/frame_0000.png",
    "job/Grün 100% +&=?#.png",
    "job/a b/c~(d)'!*.json",
    "job/日本.webp",
    "job/identity_a0.5_s-1.png",
]
ESCAPING_KEYS = ["", "/etc/passwd", "../up", "a/../../up", "a//b", "a/./b", "a\\b", "a\x00b", ".hidden", "a/.part"]


def bucket(server: S3Server, prefix: str = "", **changes: object) -> S3Store:
    fields: dict[str, object] = {
        "bucket": server.bucket,
        "prefix": prefix,
        "endpoint_url": server.endpoint_url,
        "access_key": server.access_key,
        "secret": server.secret,
        "attempts": 2,
        "timeout_seconds": 5.0,
    }
    return S3Store(**{**fields, **changes})  # type: ignore[arg-type]


@pytest.fixture(params=["folder", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    if request.param == "folder":
        return FolderStore(tmp_path / "results", public_url="https://files.example/results/")
    return bucket(request.getfixturevalue("s3_server"), prefix=tmp_path.name)


# -- laws of every store ------------------------------------------------------------------------


@pytest.mark.parametrize("key", AWKWARD_KEYS)
def test_what_is_put_is_what_is_got(store: Store, key: str) -> None:
    data = os.urandom(1000)
    assert not store.exists(key)
    store.put(key, b"an older result", "image/png")
    store.put(key, data, "image/png")
    assert store.exists(key)
    assert store.get(key) == data
    assert store.keys("") == [key]


def test_an_empty_file_is_a_file(store: Store) -> None:
    store.put("job/empty.csv", b"", "text/csv")
    assert store.get("job/empty.csv") == b""


def test_a_key_that_was_never_put_is_missing(store: Store) -> None:
    with pytest.raises(MissingKey):
        store.get("job/none.png")
    assert not store.exists("job/none.png")
    assert store.keys("job/") == []


def test_keys_are_sorted_and_chosen_by_prefix(store: Store) -> None:
    for key in ("b/2.png", "b/1.png", "bb/1.png", "a/1.png"):
        store.put(key, b"x", "image/png")
    assert store.keys("b/") == ["b/1.png", "b/2.png"]
    assert store.keys("b") == ["b/1.png", "b/2.png", "bb/1.png"]
    assert store.keys("") == ["a/1.png", "b/1.png", "b/2.png", "bb/1.png"]


@pytest.mark.parametrize("key", ESCAPING_KEYS)
def test_a_key_that_could_leave_the_store_is_refused(store: Store, key: str) -> None:
    for use in (
        lambda: store.put(key, b"x", "image/png"),
        lambda: store.get(key),
        lambda: store.exists(key),
        lambda: store.link(key, 60),
    ):
        with pytest.raises(ValueError, match="not a key"):
            use()
    assert store.keys("") == []


def test_a_check_passes_and_leaves_no_key(store: Store) -> None:
    store.check()
    assert store.keys("") == []


def test_a_place_leads_back_to_its_key(store: Store) -> None:
    key = "job/checkpoints/head.safetensors"
    assert store.key_of(store.place(key)) == key == store.key_of(key)


def test_many_threads_share_one_store(store: Store) -> None:
    files = {f"job/{n:02}.bin": os.urandom(50_000) for n in range(16)}
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda item: store.put(*item, "application/octet-stream"), files.items()))
        assert dict(zip(files, pool.map(store.get, files), strict=True)) == files


# -- a folder -----------------------------------------------------------------------------------


def test_a_write_that_dies_halfway_leaves_the_old_file_and_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = FolderStore(tmp_path)
    store.put("job/a.png", b"old", "image/png")

    def power_cut(source: str, target: Path) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "replace", power_cut)
    with pytest.raises(UploadFailed) as failure:
        store.put("job/a.png", b"new", "image/png")
    with pytest.raises(UploadFailed):
        store.put("job/b.png", b"new", "image/png")
    assert store.get("job/a.png") == b"old"
    assert [path.name for path in (tmp_path / "job").iterdir()] == ["a.png"]
    assert str(tmp_path) not in failure.value.message


def test_a_reader_never_sees_half_a_file(tmp_path: Path) -> None:
    store = FolderStore(tmp_path)
    versions = [bytes([n]) * 400_000 for n in range(2)]
    store.put("a.bin", versions[0], "application/octet-stream")
    done = threading.Event()

    def write() -> None:
        for n in range(40):
            store.put("a.bin", versions[n % 2], "application/octet-stream")
        done.set()

    writer = threading.Thread(target=write)
    writer.start()
    while not done.is_set():
        assert store.get("a.bin") in versions
    writer.join()


def test_a_symbolic_link_does_not_lead_out_of_the_folder(tmp_path: Path) -> None:
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "way_out").symlink_to(tmp_path)
    with pytest.raises(ValueError, match="not a key"):
        FolderStore(tmp_path / "results").put("way_out/a.png", b"x", "image/png")


def test_a_folder_has_links_only_where_it_is_served(tmp_path: Path) -> None:
    silent, served = FolderStore(tmp_path), FolderStore(tmp_path, "http://127.0.0.1:8000/files/")
    assert (silent.links, silent.link("a/b.png", 60)) == (False, None)
    assert served.links
    assert served.link("a b/ü%.png", 60) == "http://127.0.0.1:8000/files/a%20b/%C3%BC%25.png"


def test_a_folder_that_cannot_be_written_is_named_a_failed_upload(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(UploadFailed) as failure:
        FolderStore(tmp_path / "file" / "results").check()
    assert str(tmp_path) not in failure.value.message


def test_a_folder_that_drops_out_is_named_a_failed_fetch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a network volume does in the middle of a job: what cannot be read is not taken for missing."""
    store = FolderStore(tmp_path)
    store.put("job/a.png", b"x", "image/png")
    drops_out(monkeypatch)
    with pytest.raises(FetchFailed):
        store.exists("job/a.png")
    with pytest.raises(FetchFailed):
        store.keys("job/")


def drops_out(monkeypatch: pytest.MonkeyPatch) -> None:
    def stale(*_: object, **__: object) -> None:
        raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))

    monkeypatch.setattr(os, "scandir", stale)
    monkeypatch.setattr(storage.Path, "is_file", stale)


def test_a_folder_opens_no_bucket(tmp_path: Path) -> None:
    with pytest.raises(UnsafeUrl):
        FolderStore(tmp_path).source("s3://bucket/key", 10)


# -- a bucket -----------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [100_000, 12_000_000])
def test_a_link_opens_the_same_bytes_with_their_media_type(s3_server: S3Server, tmp_path: Path, size: int) -> None:
    store = bucket(s3_server, prefix=tmp_path.name, multipart_bytes=6 * 2**20)
    data = os.urandom(size)
    store.put("job/image_0000.webp", data, "image/webp")
    address = store.link("job/image_0000.webp", 60)
    assert address is not None
    answer = httpx.get(address)
    assert answer.status_code == 200
    assert hashlib.sha256(answer.content).digest() == hashlib.sha256(data).digest()
    assert answer.headers["content-type"] == "image/webp"
    assert answer.headers["content-disposition"] == 'inline; filename="image_0000.webp"'
    assert answer.headers["x-amz-meta-sha256"] == hashlib.sha256(data).hexdigest()


def test_a_large_object_goes_up_in_parts(s3_server: S3Server, tmp_path: Path) -> None:
    store = bucket(s3_server, prefix=tmp_path.name, multipart_bytes=6 * 2**20)
    parts: list[str] = []
    store._s3().meta.events.register("before-call.s3.UploadPart", lambda **_: parts.append("part"))
    data = os.urandom(12_000_000)
    store.put("job/video.mp4", data, "video/mp4")
    assert len(parts) == 3
    assert store.get("job/video.mp4") == data


def test_every_part_is_signed_with_its_sha256(s3_server: S3Server, tmp_path: Path) -> None:
    store = bucket(s3_server, prefix=tmp_path.name, multipart_bytes=6 * 2**20)
    signed: set[str] = set()
    store._s3().meta.events.register(
        "before-send.s3", lambda request, **_: signed.add(request.headers["X-Amz-Content-SHA256"].decode())
    )
    data = os.urandom(6 * 2**20)
    store.put("job/large.bin", data, "application/octet-stream")
    assert "UNSIGNED-PAYLOAD" not in signed
    assert {hashlib.sha256(data[start : start + 5 * 2**20]).hexdigest() for start in (0, 5 * 2**20)} <= signed


@pytest.mark.parametrize("key", AWKWARD_KEYS)
def test_links_open_awkward_keys(s3_server: S3Server, tmp_path: Path, key: str) -> None:
    store = bucket(s3_server, prefix=tmp_path.name)
    store.put(key, b"here", "text/plain")
    assert httpx.get(str(store.link(key, 60))).content == b"here"


def test_a_link_ends_when_it_said(s3_server: S3Server, tmp_path: Path) -> None:
    store = bucket(s3_server, prefix=tmp_path.name)
    store.put("a.png", b"x", "image/png")
    address = str(store.link("a.png", 1))
    assert httpx.get(address).status_code == 200
    time.sleep(2.1)
    assert httpx.get(address).status_code >= 400


def test_a_link_with_another_signature_opens_nothing(s3_server: S3Server, tmp_path: Path) -> None:
    store = bucket(s3_server, prefix=tmp_path.name)
    store.put("a.png", b"x", "image/png")
    store.put("b.png", b"y", "image/png")
    address = str(store.link("a.png", 600))
    stolen = address.replace("a.png", "b.png")
    longer = address.replace("X-Amz-Expires=600", "X-Amz-Expires=6000")
    for forged in (stolen, longer, address[:-4] + "0000", address.partition("?")[0]):
        assert httpx.get(forged).status_code >= 400


@pytest.mark.parametrize("seconds", [0, -1, 604_801])
def test_a_link_lasts_at_most_seven_days(s3_server: S3Server, seconds: int) -> None:
    with pytest.raises(ValueError, match="604800"):
        bucket(s3_server).link("a.png", seconds)


def test_a_prefix_keeps_two_users_of_a_bucket_apart(s3_server: S3Server, tmp_path: Path) -> None:
    ours, theirs = (bucket(s3_server, prefix=f"/{tmp_path.name}/{who}/") for who in ("ours", "theirs"))
    ours.put("a.png", b"ours", "image/png")
    assert theirs.keys("") == []
    assert not theirs.exists("a.png")
    assert (s3_server.root / s3_server.bucket / tmp_path.name / "ours" / "a.png").read_bytes() == b"ours"


def test_a_source_is_any_object_of_the_bucket_and_of_no_other(s3_server: S3Server, tmp_path: Path) -> None:
    bucket(s3_server).put(f"{tmp_path.name}/photo.png", b"photo", "image/png")
    store = bucket(s3_server, prefix="elsewhere")
    address = f"s3://{s3_server.bucket}/{tmp_path.name}/photo.png"
    assert store.source(address, max_bytes=5) == b"photo"
    with pytest.raises(InputTooLarge):
        store.source(address, max_bytes=4)
    with pytest.raises(MissingKey):
        store.source(f"s3://{s3_server.bucket}/{tmp_path.name}/none.png", max_bytes=5)
    for other in ("s3://another-bucket/photo.png", f"s3://{s3_server.bucket}", f"s3://{s3_server.bucket}/"):
        with pytest.raises(UnsafeUrl):
            store.source(other, max_bytes=5)


# -- a bucket that fails ------------------------------------------------------------------------


def test_a_store_that_is_down_fails_after_its_attempts_and_in_bounded_time() -> None:
    store = S3Store(
        bucket="some-bucket",
        endpoint_url=f"http://127.0.0.1:{s3.free_port()}",
        access_key=s3.ACCESS_KEY,
        secret=s3.SECRET,
        attempts=3,
        timeout_seconds=1.0,
    )
    tries: list[object] = []
    store._s3().meta.events.register("before-send.s3", lambda **_: tries.append(1) and None)
    start = time.monotonic()
    with pytest.raises(UploadFailed, match="did not answer") as failure:
        store.put("a.png", b"x", "image/png")
    assert len(tries) == 3
    assert time.monotonic() - start < 10
    assert failure.value.retryable
    assert "127.0.0.1" not in str(failure.value.reply())
    with pytest.raises(FetchFailed):
        store.get("a.png")


def test_a_store_that_never_answers_fails_within_its_timeouts(silent_port: int) -> None:
    store = S3Store(
        bucket="some-bucket",
        endpoint_url=f"http://127.0.0.1:{silent_port}",
        access_key=s3.ACCESS_KEY,
        secret=s3.SECRET,
        attempts=1,
        timeout_seconds=0.5,
    )
    start = time.monotonic()
    with pytest.raises(UploadFailed, match="did not answer"):
        store.check()
    assert time.monotonic() - start < 5


def test_a_store_that_comes_back_takes_the_result(tmp_path: Path) -> None:
    server = s3.start(tmp_path / "root")
    store = bucket(server)
    store.put("a.png", b"before", "image/png")
    server.stop()
    with pytest.raises(UploadFailed):
        store.put("a.png", b"after", "image/png")
    assert (tmp_path / "root" / server.bucket / "a.png").read_bytes() == b"before"
    again = s3.start(tmp_path / "root", server.port)
    store.put("a.png", b"after", "image/png")
    assert store.get("a.png") == b"after"
    again.stop()


@pytest.mark.parametrize(
    "wrong", [{"secret": "another-secret-of-some-forty-characters!"}, {"access_key": "ANOTHERTESTKEY000001"}]
)
def test_wrong_credentials_are_reported_without_showing_them(s3_server: S3Server, wrong: dict[str, str]) -> None:
    store = bucket(s3_server, **wrong)
    with pytest.raises(UploadFailed) as failure:
        store.put("a.png", b"x", "image/png")
    with pytest.raises(FetchFailed):
        store.get("a.png")
    said = str(failure.value.reply()) + repr(store)
    for private in (*wrong.values(), s3.SECRET, s3.ACCESS_KEY):
        assert private not in said
    assert "credentials" in failure.value.message


def test_keys_that_may_not_list_fail_the_check_and_are_told_so(s3_server: S3Server, tmp_path: Path) -> None:
    """Without that right Amazon answers 403 where a file is missing, and every look for an earlier result fails."""
    with conditional_s3.serve(s3_server) as amazon:
        amazon.hides = True
        with pytest.raises(FetchFailed, match="ListBucket"):
            bucket(amazon.server, tmp_path.name).check()
        amazon.hides = False
        bucket(amazon.server, tmp_path.name).check()


def test_a_missing_bucket_is_named(s3_server: S3Server) -> None:
    with pytest.raises(UploadFailed, match="no such bucket"):
        bucket(s3_server, bucket="never-made").put("a.png", b"x", "image/png")


def test_no_credentials_at_all_are_named(s3_server: S3Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    with pytest.raises(UploadFailed, match="no credentials"):
        bucket(s3_server, access_key=None, secret=None).put("a.png", b"x", "image/png")


def test_a_store_that_keeps_less_than_it_was_given_has_failed(
    s3_server: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = bucket(s3_server, prefix=tmp_path.name)
    client = store._s3()
    monkeypatch.setattr(client, "head_object", lambda **_: {"ContentLength": 3})
    with pytest.raises(UploadFailed, match="kept 3 of 5 bytes"):
        store.put("a.png", b"12345", "image/png")


# -- settings -----------------------------------------------------------------------------------


def test_a_path_and_a_file_address_open_the_same_folder(tmp_path: Path) -> None:
    folder = tmp_path / "my results"
    by_path = open_store(Settings(store=str(folder)))
    by_address = open_store(Settings(store=folder.as_uri(), public_url="https://files.example"))
    by_path.put("a.png", b"x", "image/png")
    assert by_address.get("a.png") == b"x"
    assert by_address.link("a.png", 60) == "https://files.example/a.png"


def test_an_s3_address_opens_the_bucket_below_its_prefix(s3_server: S3Server, tmp_path: Path) -> None:
    settings = Settings(
        store=f"s3://{s3_server.bucket}/{tmp_path.name}/deep",
        bucket_endpoint_url=s3_server.endpoint_url,
        bucket_access_key_id=s3_server.access_key,
        bucket_secret_access_key=s3_server.secret,
    )
    open_store(settings).put("a.png", b"x", "image/png")
    assert (s3_server.root / s3_server.bucket / tmp_path.name / "deep" / "a.png").read_bytes() == b"x"


def test_a_bucket_of_the_job_is_opened_with_its_own_keys(s3_server: S3Server, tmp_path: Path) -> None:
    store = store_of(
        Settings(upload_attempts=1),
        endpoint_url=s3_server.endpoint_url,
        bucket=s3_server.bucket,
        access_key=s3_server.access_key,
        secret=s3_server.secret,
        prefix=tmp_path.name,
    )
    store.put("a.png", b"x", "image/png")
    assert store.get("a.png") == b"x"


def test_opening_a_store_touches_nothing(tmp_path: Path) -> None:
    open_store(Settings(store=str(tmp_path / "results")))
    open_store(Settings(store="s3://bucket/prefix", bucket_endpoint_url="http://127.0.0.1:9"))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("endpoint", "bare", "region"),
    [
        ("https://photos.s3.eu-central-1.amazonaws.com", "https://s3.eu-central-1.amazonaws.com", "eu-central-1"),
        ("https://s3.us-west-004.backblazeb2.com/", "https://s3.us-west-004.backblazeb2.com", "us-west-004"),
        ("https://photos.ams3.digitaloceanspaces.com", "https://ams3.digitaloceanspaces.com", "ams3"),
        ("https://s3api-eu-ro-1.runpod.io", "https://s3api-eu-ro-1.runpod.io", None),
        ("https://s3.amazonaws.com", "https://s3.amazonaws.com", None),
        ("http://127.0.0.1:9000", "http://127.0.0.1:9000", None),
    ],
)
def test_an_endpoint_may_carry_the_bucket_and_the_region(endpoint: str, bare: str, region: str | None) -> None:
    assert storage.bare_endpoint(endpoint, "photos") == bare
    assert storage.region_in(bare) == region
    assert urlsplit(bare).hostname
