"""Where finished files go: a folder on disk or a bucket of any S3-compatible server.

A store never falls back to another one: what it cannot take is `UploadFailed`; the caller keeps the bytes.
Keys are relative, made by the server ("jobs/1f3a/image_0000.png"); segments that start with a dot are the
store's own. boto3 is imported with the first use of a bucket, because it costs half a second that a
worker on a folder need not pay.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
import tempfile
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from functools import cache
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import quote, unquote, urlsplit

from darkroom.errors import DarkroomError, FetchFailed, InputTooLarge, UnsafeUrl, UploadFailed
from darkroom.settings import Settings

if TYPE_CHECKING:
    from boto3.session import Session
    from mypy_boto3_s3 import S3Client

LONGEST_LINK_SECONDS = 604_800
"""Seven days: no signature of version 4 is valid for longer."""

_CHECK_KEY = ".darkroom-check"
_CHUNK_BYTES = 2**20
_BUILDING = threading.Lock()
_NO_LINKS = {errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EXDEV}
_TAKEN = {"412", "PreconditionFailed", "409", "ConditionalRequestConflict"}
"""How S3 refuses a conditional write: something is there, or is being written at this moment."""
_UNCONDITIONAL = {"501", "NotImplemented", "InvalidArgument", "InvalidRequest"}
"""How servers refuse the condition itself: nothing else about such a request is out of the ordinary."""
_DENIED = {"403", "AccessDenied", "Forbidden", "InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken"}
_ABSENT = {"404", "NoSuchKey", "NotFound"}


class MissingKey(KeyError):
    """The store holds nothing under this key."""


class NoConditionalWrites(Exception):
    """The store cannot refuse to replace what is there."""


class Store(Protocol):
    """A place for files under keys. Safe to use from several threads."""

    @property
    def links(self) -> bool:
        """Whether `link` gives addresses."""

    @property
    def links_expire(self) -> bool:
        """Whether an address that `link` gave stops working after its time."""

    def place(self, key: str) -> str:
        """The key as the store's owner sees it, with the prefix that was configured."""

    def key_of(self, place: str) -> str:
        """The key of what `place` named; a key itself is taken too."""

    def put(self, key: str, data: bytes, media_type: str) -> None:
        """Store all of `data` or nothing, replacing what was there. Raises UploadFailed."""

    def put_new(self, key: str, data: bytes, media_type: str) -> bool:
        """Store a small file unless something is there; of several at once one does. Whether this one did.

        Raises NoConditionalWrites, UploadFailed.
        """

    def get(self, key: str) -> bytes:
        """The bytes under `key`. Raises MissingKey or FetchFailed."""

    def exists(self, key: str) -> bool:
        """Whether `get` would find `key`. Raises FetchFailed where the store does not answer."""

    def keys(self, prefix: str) -> list[str]:
        """All keys that begin with `prefix`, sorted. Raises FetchFailed."""

    def link(self, key: str, expires_seconds: int) -> str | None:
        """An address that opens `key` for 1…604,800 seconds, or None where this store makes none."""

    def source(self, address: str, max_bytes: int) -> bytes:
        """A job's own input, by its s3:// address in this store's bucket.

        Raises UnsafeUrl for any other bucket, MissingKey, InputTooLarge above `max_bytes`, FetchFailed.
        """

    def below(self, address: str) -> list[str]:
        """The addresses of a job's own inputs below s3://bucket/prefix/, sorted. Raises UnsafeUrl, FetchFailed."""

    def check(self) -> None:
        """Write a small file and read it back. Raises UploadFailed or FetchFailed."""


def open_store(settings: Settings) -> Store:
    """The store that DARKROOM_STORE names; nothing is created or contacted yet."""
    scheme, mark, rest = settings.store.partition("://")
    if mark and scheme == "s3":
        return _settings_bucket(settings, rest)
    folder = unquote(urlsplit(settings.store).path) if mark else settings.store
    return FolderStore(Path(folder), settings.public_url)


def store_of(
    settings: Settings, *, endpoint_url: str, access_key: str, secret: str, bucket: str, prefix: str = ""
) -> S3Store:
    """The bucket that a job brought along (`s3Config`), with this worker's retries and timeouts.

    Whether `endpoint_url` is an address that this worker may contact is for the caller to have checked.
    """
    return S3Store(
        bucket=bucket,
        prefix=prefix,
        endpoint_url=endpoint_url,
        access_key=access_key,
        secret=secret,
        region=settings.bucket_region,
        attempts=settings.upload_attempts,
        timeout_seconds=settings.upload_timeout_seconds,
    )


def _settings_bucket(settings: Settings, place: str) -> S3Store:
    bucket, _, prefix = place.strip("/").partition("/")
    access_key, secret = settings.bucket_access_key_id, settings.bucket_secret_access_key
    return S3Store(
        bucket=bucket,
        prefix=prefix,
        endpoint_url=settings.bucket_endpoint_url,
        access_key=access_key.get_secret_value() if access_key else None,
        secret=secret.get_secret_value() if secret else None,
        region=settings.bucket_region,
        attempts=settings.upload_attempts,
        timeout_seconds=settings.upload_timeout_seconds,
    )


def _checked(key: str) -> str:
    """`key` itself. Raises ValueError for one that could leave the store or hide in it.

    Keys come from this program, never from a caller: a bad one is a defect, not a bad job.
    """
    strange = re.search(r"[\x00-\x1f\x7f\\]", key)
    if strange or any(not part or part.startswith(".") for part in key.split("/")):
        raise ValueError(f"not a key: {key!r}")
    return key


def _hidden(key: str) -> bool:
    return any(part.startswith(".") for part in key.split("/"))


def _round_trip(store: FolderStore | S3Store, key: str) -> None:
    """Raises UploadFailed unless what was written is what is read, or FetchFailed."""
    # The same bytes from every worker: two that check at once must not disturb each other.
    probe = b"Darkroom was here to see whether it can write.\n"
    store._write(key, probe, "text/plain")
    try:
        found = store._read(key)
    except MissingKey:
        found = b""
    if found != probe:
        raise UploadFailed("the store does not give back what it was given")


# -- a folder -----------------------------------------------------------------------------------


class FolderStore:
    """Files below `folder`. A reader sees a file whole or not at all, even if the machine stops mid-write.

    With `public_url`, where something else serves the folder, links are that address plus the key;
    they do not expire.
    """

    def __init__(self, folder: Path, public_url: str | None = None) -> None:
        self.folder = Path(folder)
        self._public_url = public_url.rstrip("/") if public_url else None

    @property
    def links(self) -> bool:
        """Whether a public address was given."""
        return self._public_url is not None

    @property
    def links_expire(self) -> bool:
        """Never: a folder is served as it is."""
        return False

    def place(self, key: str) -> str:
        """The key itself: a folder has no prefix."""
        return _checked(key)

    def key_of(self, place: str) -> str:
        """The place itself."""
        return place

    def put(self, key: str, data: bytes, media_type: str) -> None:
        """Store `data`; a folder keeps no media types. Raises UploadFailed."""
        self._write(_checked(key), data, media_type)

    def put_new(self, key: str, data: bytes, media_type: str) -> bool:
        """Store `data` unless there is such a file. Raises NoConditionalWrites where files cannot have two names."""
        path = self._path(_checked(key))
        with _writing_folder():
            path.parent.mkdir(parents=True, exist_ok=True)
            with _beside(path, data) as temporary:
                return _linked(temporary, path)

    def get(self, key: str) -> bytes:
        """The file's bytes. Raises MissingKey or FetchFailed."""
        return self._read(_checked(key))

    def exists(self, key: str) -> bool:
        """Whether there is such a file. Raises FetchFailed."""
        try:
            return self._path(_checked(key)).is_file()
        except OSError as error:  # a network volume that has dropped out
            raise FetchFailed("the folder of results cannot be read") from error

    def keys(self, prefix: str) -> list[str]:
        """All keys that begin with `prefix`, sorted. Raises FetchFailed."""
        folder = self.folder / prefix.rpartition("/")[0]
        return sorted(key for key in self._walk(folder) if key.startswith(prefix))

    def link(self, key: str, expires_seconds: int) -> str | None:
        """`public_url`/`key`, or None without a public address."""
        return f"{self._public_url}/{quote(_checked(key))}" if self._public_url else None

    def source(self, address: str, max_bytes: int) -> bytes:
        """Always UnsafeUrl: there is no bucket here."""
        raise UnsafeUrl("this worker has no bucket, so it opens no s3:// address")

    def below(self, address: str) -> list[str]:
        """Always UnsafeUrl: there is no bucket here."""
        raise UnsafeUrl("this worker has no bucket, so it opens no s3:// address")

    def check(self) -> None:
        """Write a small file, read it back, remove it. Raises UploadFailed or FetchFailed."""
        key = f"{_CHECK_KEY}-{os.urandom(8).hex()}"
        _round_trip(self, key)
        self._path(key).unlink(missing_ok=True)

    def _path(self, key: str) -> Path:
        """Where `key` lies. Raises ValueError if a symbolic link leads out of the folder."""
        path = self.folder / key
        if not path.resolve().is_relative_to(self.folder.resolve()):
            raise ValueError(f"not a key of this folder: {key!r}")
        return path

    def _walk(self, start: Path) -> Iterator[str]:
        for parent, folders, files in os.walk(start, onerror=_unreadable):
            folders[:] = [name for name in folders if not name.startswith(".")]
            for name in files:
                if not name.startswith("."):
                    yield (Path(parent) / name).relative_to(self.folder).as_posix()

    def _read(self, key: str) -> bytes:
        try:
            return self._path(key).read_bytes()
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
            raise MissingKey(key) from None
        except OSError as error:
            raise FetchFailed("the folder of results cannot be read") from error

    def _write(self, key: str, data: bytes, media_type: str) -> None:
        path = self._path(key)
        with _writing_folder():
            path.parent.mkdir(parents=True, exist_ok=True)
            with _beside(path, data) as temporary:
                os.replace(temporary, path)
            _sync_folder(path.parent)


def _unreadable(error: OSError) -> None:
    """Raises FetchFailed, but for a folder that is not there: it holds nothing."""
    if not isinstance(error, FileNotFoundError | NotADirectoryError):
        raise FetchFailed("the folder of results cannot be read") from error


@contextmanager
def _writing_folder() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else "the disk failed"
        raise UploadFailed(f"the folder of results took no file: {reason}") from error


@contextmanager
def _beside(path: Path, data: bytes) -> Iterator[str]:
    """A file of `data` beside `path`, on the disk for good, to be given its name in one step; gone afterwards."""
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=".", suffix=".part")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        # mkstemp gives 0600, and whoever serves the folder is often another user.
        os.chmod(temporary, 0o644)
        yield temporary
    finally:
        with suppress(OSError):
            os.unlink(temporary)


def _linked(temporary: str, path: Path) -> bool:
    """Give a whole file its name unless that is taken: opening with O_EXCL would show it before it is written."""
    try:
        os.link(temporary, path)
    except FileExistsError:
        return False
    except OSError as error:
        if error.errno in _NO_LINKS:
            raise NoConditionalWrites("this folder's file system has no hard links") from error
        raise
    return True


def _sync_folder(folder: Path) -> None:
    """The new name itself must reach the disk, too."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


# -- a bucket -----------------------------------------------------------------------------------


@dataclass(eq=False)
class S3Store:
    """Keys below `prefix` of one bucket.

    Without `endpoint_url` the bucket is Amazon's; with one, the path-style addresses that every other server
    understands are used. Without keys boto3 looks for them where it always does. Each request, and so each
    part of a large object, is signed together with its SHA-256, which servers of signature version 4 verify;
    the size is asked back afterwards, and the SHA-256 of the whole stays with the object as `sha256`.
    """

    bucket: str
    prefix: str = ""
    endpoint_url: str | None = None
    access_key: str | None = field(default=None, repr=False)
    secret: str | None = field(default=None, repr=False)
    region: str = "us-east-1"
    attempts: int = 5
    timeout_seconds: float = 30.0
    """For a connection to open and for each answer, per attempt."""
    multipart_bytes: int = 16 * 2**20
    """Objects of this size and more go up in parts of half of it, but at least S3's minimum of 5 MiB."""
    _client: S3Client | None = field(default=None, init=False, repr=False)
    _conditional: bool | None = field(default=None, init=False, repr=False)
    """Whether the server minds If-None-Match, once that is known."""

    @property
    def links(self) -> bool:
        """Always: any object can be signed."""
        return True

    @property
    def links_expire(self) -> bool:
        """Always: they are signed for a time."""
        return True

    def place(self, key: str) -> str:
        """The key with its prefix, as it stands in the bucket."""
        return self._key(_checked(key))

    def key_of(self, place: str) -> str:
        """Without the prefix, where `place` has it."""
        return place.removeprefix(self._key(""))

    def put(self, key: str, data: bytes, media_type: str) -> None:
        """Store `data` with its media type, in parts if it is large. Raises UploadFailed."""
        self._write(_checked(key), data, media_type)

    def put_new(self, key: str, data: bytes, media_type: str) -> bool:
        """One PutObject with `If-None-Match: *`, which Amazon, R2, MinIO and others mind; raises as any store does."""
        place = self._key(_checked(key))
        stored = self._put_unless_there(place, key, data, media_type)
        if stored and self._conditional is None:
            # A server that does not know the condition takes every PutObject: it is asked once more, once per store.
            self._conditional = not self._put_unless_there(place, key, data, media_type)
        if self._conditional is False:
            raise NoConditionalWrites("this store's server takes no notice of If-None-Match")
        self._conditional = True
        return stored

    def get(self, key: str) -> bytes:
        """The object's bytes. Raises MissingKey or FetchFailed."""
        return self._read(_checked(key))

    def exists(self, key: str) -> bool:
        """Whether there is such an object. Raises FetchFailed."""
        place = self._key(_checked(key))
        try:
            with _reading(key):
                self._s3().head_object(Bucket=self.bucket, Key=place)
        except MissingKey:
            return False
        return True

    def keys(self, prefix: str) -> list[str]:
        """All keys that begin with `prefix`, sorted. Raises FetchFailed."""
        root = self._key("")
        with _reading(prefix):
            lists = self._s3().get_paginator("list_objects_v2")
            pages = lists.paginate(Bucket=self.bucket, Prefix=root + prefix)
            found = [item["Key"][len(root) :] for page in pages for item in page.get("Contents", [])]
        return sorted(key for key in found if not _hidden(key))

    def link(self, key: str, expires_seconds: int) -> str | None:
        """A presigned GET address. Raises ValueError unless 1 ≤ expires_seconds ≤ 604,800."""
        if not 1 <= expires_seconds <= LONGEST_LINK_SECONDS:
            raise ValueError(f"a link lasts 1 to {LONGEST_LINK_SECONDS} seconds, not {expires_seconds}")
        place = {"Bucket": self.bucket, "Key": self._key(_checked(key))}
        with _failing_as(UploadFailed, "the result's link could not be signed"):
            return self._s3().generate_presigned_url("get_object", Params=place, ExpiresIn=expires_seconds)

    def source(self, address: str, max_bytes: int) -> bytes:
        """Any object of the bucket, also outside the prefix, by s3://bucket/key."""
        bucket, _, key = address.removeprefix("s3://").partition("/")
        if bucket != self.bucket or not key:
            raise UnsafeUrl("only objects of this worker's own bucket can be read, as s3://bucket/key")
        return self._object(key, max_bytes)

    def below(self, address: str) -> list[str]:
        """Objects of the bucket, also outside the store's own prefix."""
        bucket, _, prefix = address.removeprefix("s3://").partition("/")
        if bucket != self.bucket or not prefix.strip("/"):
            raise UnsafeUrl("only a folder of this worker's own bucket can be read, as s3://bucket/folder/")
        found: list[str] = []
        with _reading(prefix):
            for page in self._s3().get_paginator("list_objects_v2").paginate(Bucket=self.bucket, Prefix=prefix):
                found += [f"s3://{bucket}/{item['Key']}" for item in page.get("Contents", [])]
        return sorted(found)

    def check(self) -> None:
        """Write a small object and read it back; it stays, since the right to delete is often missing.

        Also asks for one that is not there. Raises UploadFailed or FetchFailed.
        """
        _round_trip(self, _CHECK_KEY)
        try:
            self._read(f"{_CHECK_KEY}-absent")
        except MissingKey:
            return
        except FetchFailed as error:
            raise FetchFailed(
                "the store takes and gives files, but does not say that one is missing: its keys need the right to "
                "list the bucket (s3:ListBucket)"
            ) from error

    def _key(self, key: str) -> str:
        prefix = self.prefix.strip("/")
        return f"{prefix}/{key}" if prefix else key

    def _s3(self) -> S3Client:
        """One client for all threads, built on first use: clients are thread-safe, their making is not."""
        with _BUILDING:
            if self._client is None:
                self._client = self._build()
            return self._client

    def _build(self) -> S3Client:
        from botocore.config import Config

        endpoint = bare_endpoint(self.endpoint_url, self.bucket)
        config = Config(
            signature_version="s3v4",
            # Virtual-hosted addresses need a wildcard DNS name that few other servers have.
            s3={"addressing_style": "path" if endpoint else "auto", "payload_signing_enabled": True},
            retries={"total_max_attempts": self.attempts, "mode": "standard"},
            connect_timeout=self.timeout_seconds,
            read_timeout=self.timeout_seconds,
            # Several S3-compatible servers refuse boto3's CRC trailers; the payload is signed instead.
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
        )
        return _session().client(
            "s3",
            endpoint_url=endpoint,
            aws_access_key_id=self.access_key,
            aws_secret_access_key=self.secret,
            region_name=region_in(endpoint) or self.region,
            config=config,
        )

    def _write(self, key: str, data: bytes, media_type: str) -> None:
        place, headers = self._key(key), _headers(key, data, media_type)
        with _failing_as(UploadFailed, "the result could not be stored"):
            client = self._s3()
            client.upload_fileobj(BytesIO(data), self.bucket, place, headers, Config=self._transfer())
            stored = client.head_object(Bucket=self.bucket, Key=place)["ContentLength"]
        if stored != len(data):
            raise UploadFailed(f"the store kept {stored} of {len(data)} bytes")

    def _put_unless_there(self, place: str, key: str, data: bytes, media_type: str) -> bool:
        from botocore.exceptions import ClientError

        if self._conditional is False:
            return True
        headers = _headers(key, data, media_type)
        with _failing_as(UploadFailed, "the result could not be stored"):
            try:
                self._s3().put_object(Bucket=self.bucket, Key=place, Body=data, IfNoneMatch="*", **headers)
            except ClientError as error:
                code = _error_code(error.response)
                if code in _TAKEN:
                    return False
                if code not in _UNCONDITIONAL:
                    raise
                self._conditional = False
        return True

    def _transfer(self) -> Any:
        from boto3.s3.transfer import TransferConfig

        part_bytes = max(5 * 2**20, self.multipart_bytes // 2)
        return TransferConfig(
            multipart_threshold=self.multipart_bytes, multipart_chunksize=part_bytes, max_concurrency=4
        )

    def _read(self, key: str) -> bytes:
        return self._object(self._key(key), max_bytes=None)

    def _object(self, key: str, max_bytes: int | None) -> bytes:
        """The object under the full `key`, refused by its declared size before any of it is read."""
        with _reading(key):
            answer = self._s3().get_object(Bucket=self.bucket, Key=key)
            size = answer["ContentLength"]
            with closing(answer["Body"]) as body:
                if max_bytes is not None and size > max_bytes:
                    raise InputTooLarge(f"the object has {size} bytes, the limit is {max_bytes}")
                return b"".join(body.iter_chunks(_CHUNK_BYTES))


@cache
def _session() -> Session:
    """One per process, used under _BUILDING: it keeps the parsed service model, 0.2 s of every client."""
    import boto3

    return boto3.session.Session()


def bare_endpoint(endpoint_url: str | None, bucket: str) -> str | None:
    """The endpoint without the bucket's name in front, which RunPod's examples put there."""
    if endpoint_url is None:
        return None
    scheme, mark, rest = endpoint_url.rstrip("/").partition("://")
    return f"{scheme}{mark}{rest.removeprefix(f'{bucket}.')}"


def region_in(endpoint_url: str | None) -> str | None:
    """The region in the host names of large providers, or None; a signature for another region is void."""
    host = urlsplit(endpoint_url).hostname or "" if endpoint_url else ""
    match = re.search(r"(?:^|\.)s3[.-]([a-z]{2,}-[a-z0-9-]*\d+)\.", host)
    spaces = re.search(r"(?:^|\.)([a-z]{3}\d)\.digitaloceanspaces\.com$", host)
    found = match or spaces
    return found[1] if found else None


def _headers(key: str, data: bytes, media_type: str) -> dict[str, Any]:
    name = re.sub(r'[^\x20-\x7e]|["\\]', "_", key.rsplit("/", 1)[-1])
    return {
        "ContentType": media_type,
        "ContentDisposition": f'inline; filename="{name}"',
        "Metadata": {"sha256": hashlib.sha256(data).hexdigest()},
    }


@contextmanager
def _reading(key: str) -> Iterator[None]:
    """What goes wrong in here is MissingKey where the store says so, else FetchFailed."""
    from botocore.exceptions import ClientError

    with _failing_as(FetchFailed, "the store could not be read"):
        try:
            yield
        except ClientError as error:
            if _error_code(error.response) in _ABSENT:
                raise MissingKey(key) from None
            raise


@contextmanager
def _failing_as(kind: type[DarkroomError], what: str) -> Iterator[None]:
    """Every failure of boto3 or the network becomes a `kind` that names no host, key or secret."""
    from boto3.exceptions import Boto3Error
    from botocore.exceptions import BotoCoreError, ClientError
    from urllib3.exceptions import HTTPError

    try:
        yield
    except ClientError as error:
        raise kind(f"{what}: {_refusal(_error_code(error.response))}") from error
    except (BotoCoreError, Boto3Error, HTTPError, OSError, ValueError) as error:
        raise kind(f"{what}: {_trouble(error)}") from error


def _error_code(response: Any) -> str:
    return str(response.get("Error", {}).get("Code", ""))


def _refusal(code: str) -> str:
    if code in _DENIED:
        return "the store does not accept this worker's credentials"
    if code == "NoSuchBucket":
        return "there is no such bucket"
    # Codes are short words of S3's; anything else could be a server's prose with names in it.
    return f"the store answered {code}" if re.fullmatch(r"\w{1,64}", code) else "the store refused"


def _trouble(error: Exception) -> str:
    from botocore.exceptions import NoCredentialsError, PartialCredentialsError

    if isinstance(error, NoCredentialsError | PartialCredentialsError):
        return "this worker has no credentials for the store"
    return "the store did not answer"
