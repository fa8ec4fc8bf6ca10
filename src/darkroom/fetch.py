"""Sources that a caller names, opened as if every one of them were hostile.

    https://…                   public addresses only; the connection goes to the address that was checked
    data:image/png;base64,…     the bytes themselves (bare base64 of older clients arrives as data:image/*)
    s3://bucket/key             objects of this worker's own bucket

Everything else is refused, plain http included: whoever sits between could swap the picture. On closed
networks `allow_private` opens http and addresses that are not public.

The SDK's rp_ssrf judges addresses and pins connections. Its `safe_get` is not used: it follows redirects
down to http, counts its time limit anew with each packet, and takes its permission from the environment
where Darkroom's is a setting.
"""

from __future__ import annotations

import base64
import binascii
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from http.client import responses
from typing import Any, Protocol, Self
from urllib.parse import SplitResult, urljoin, urlsplit

import requests
from urllib3.exceptions import HTTPError

from darkroom.errors import DarkroomError, DecodeFailed, FetchFailed, InputTooLarge, InvalidInput, UnsafeUrl
from darkroom.jobs import Limits

MAX_REDIRECTS = 5
MAX_ADDRESS_CHARS = 8_192
FORMS = "https://…, data:image/png;base64,… or s3://bucket/key"

_CHUNK_BYTES = 65_536
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_MOST_DIGITS = 18
"""Of a size that a server declares; int() would refuse thousands of them with a ValueError."""
_PASSING_STATUS = frozenset({408, 425, 429})
"""The 4xx answers that a later attempt may not get."""
_HEADERS = {
    "User-Agent": "darkroom",
    "Accept": "image/*, */*;q=0.5",
    # Pictures are packed already; a packed answer would only hide its size.
    "Accept-Encoding": "identity",
}

Resolve = Callable[[str, int], list[str]]
"""Host and port -> addresses to try. Raises UnsafeUrl where one must not be opened, OSError if there is none."""


class Bucket(Protocol):
    """What fetching needs of a store."""

    def source(self, address: str, max_bytes: int) -> bytes:
        """The object at s3://bucket/key; KeyError where there is none."""


def fetch_image_bytes(
    address: str,
    field: str,
    limits: Limits,
    store: Bucket,
    *,
    allow_private: bool = False,
    resolve: Resolve | None = None,
) -> bytes:
    """The bytes of one source: at most limits.max_source_bytes, within limits.fetch_seconds in all.

    `resolve` replaces the look-up of host names. Errors name `field` and never a resolved address:
    UnsafeUrl, InputTooLarge, DecodeFailed (broken base64), InvalidInput (malformed, or refused by its
    server for good) and FetchFailed (may succeed later). Objects of the bucket have the store's own timeouts.
    """
    scheme, colon, _ = address.partition(":")
    with about(field):
        match scheme.lower() if colon else "":
            case "data":
                return _inline(address, limits.max_source_bytes)
            case "s3":
                return _from_bucket(address, limits.max_source_bytes, store)
            case "https" | "http":
                return _from_web(address, limits, _gate(allow_private, resolve))
        raise UnsafeUrl(f"only {FORMS} can be opened")


def fetch_all(
    sources: Mapping[str, str], limits: Limits, store: Bucket, *, allow_private: bool = False
) -> dict[str, bytes]:
    """Field -> bytes for field -> address, fetched side by side. Raises the error of the first field that has one."""
    if not sources:
        return {}
    with ThreadPoolExecutor(min(8, len(sources)), thread_name_prefix="fetch") as pool:
        pending = {
            field: pool.submit(fetch_image_bytes, address, field, limits, store, allow_private=allow_private)
            for field, address in sources.items()
        }
        return {field: future.result() for field, future in pending.items()}


def check_public(address: str, field: str, *, allow_private: bool = False, seconds: float = 10.0) -> None:
    """Raises UnsafeUrl unless the host is public now: for an address that other code opens (a job's own bucket).

    Whoever controls the name can still move it afterwards, so this is less than what fetching does.
    """
    _rp_ssrf()
    with about(field), _Clock(seconds) as clock:
        gate = _Gate(frozenset({"http", "https"}), any_addresses if allow_private else public_addresses)
        _resolved(_parsed(address, gate.schemes), gate.resolve, clock)


@contextmanager
def about(field: str) -> Iterator[None]:
    """What goes wrong in here is said of `field`."""
    try:
        yield
    except DarkroomError as error:
        raise type(error)(f"{field}: {error.message}", field=field, details=error.details) from error


# -- bytes in the request itself ----------------------------------------------------------------


def _inline(address: str, max_bytes: int) -> bytes:
    head, comma, body = address.partition(",")
    if not comma or not head.lower().endswith(";base64"):
        raise DecodeFailed("a data URI must hold base64: data:image/png;base64,…")
    # Four characters carry three bytes: judged on the text, before anything is unpacked.
    num_bytes = len(body) // 4 * 3 - body[-2:].count("=")
    if num_bytes > max_bytes:
        raise InputTooLarge(f"has {num_bytes} bytes, the limit is {max_bytes}")
    try:
        return base64.b64decode(body, validate=True)
    except (binascii.Error, ValueError):
        raise DecodeFailed("is not valid base64") from None


def _from_bucket(address: str, max_bytes: int, store: Bucket) -> bytes:
    try:
        return store.source(address, max_bytes)
    except KeyError:
        raise InvalidInput("there is no such object in the bucket") from None


# -- the web ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Gate:
    """Which schemes may be opened, and which addresses behind a host name."""

    schemes: frozenset[str]
    resolve: Resolve


def _gate(allow_private: bool, resolve: Resolve | None) -> _Gate:
    if allow_private:
        return _Gate(frozenset({"http", "https"}), resolve or any_addresses)
    return _Gate(frozenset({"https"}), resolve or public_addresses)


def any_addresses(host: str, port: int) -> list[str]:
    """All addresses of `host`, each once. Raises OSError where it has none."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))


def public_addresses(host: str, port: int) -> list[str]:
    """All addresses of `host`. Raises UnsafeUrl if a single one is not public: such a host is up to something."""
    addresses = any_addresses(host, port)
    if not all(_rp_ssrf().is_safe_address(address) for address in addresses):
        raise UnsafeUrl("must not lead to an address that is not public")
    return addresses


def _rp_ssrf() -> Any:
    """The SDK's module. Importing it runs all of runpod's __init__, two seconds of which no other source knows."""
    from runpod.serverless.utils import rp_ssrf

    return rp_ssrf


def _from_web(address: str, limits: Limits, gate: _Gate) -> bytes:
    _rp_ssrf()  # before the clock starts: the first import is not the source's delay
    late = FetchFailed(f"did not arrive within {limits.fetch_seconds:g} seconds")
    with _Clock(limits.fetch_seconds) as clock:
        try:
            data = _download(address, limits.max_source_bytes, gate, clock)
        except requests.exceptions.SSLError as error:
            raise (late if clock.over else FetchFailed("its server's certificate is not valid")) from error
        except (OSError, HTTPError) as error:
            raise (late if clock.over else FetchFailed("its server could not be reached")) from error
        except ValueError as error:  # of a redirect: requests looks at where it leads even if it does not follow
            raise InvalidInput("its server redirects to what is no address") from error
        # A connection cut by the clock can look like the ordinary end of a body of unknown length.
        if clock.over:
            raise late
    return data


def _download(address: str, max_bytes: int, gate: _Gate, clock: _Clock) -> bytes:
    for _ in range(MAX_REDIRECTS + 1):
        with _opened(address, gate, clock) as response:
            if response.status_code not in _REDIRECTS:
                return _body(response, max_bytes)
            onward = response.headers.get("Location")
            if not onward:
                raise InvalidInput("its server redirects without saying where")
            address = urljoin(address, onward)
    raise InvalidInput(f"its server redirects more than {MAX_REDIRECTS} times")


@contextmanager
def _opened(address: str, gate: _Gate, clock: _Clock) -> Iterator[requests.Response]:
    """The answer to one GET, sent to the first address of the host that takes a connection."""
    addresses = _resolved(_parsed(address, gate.schemes), gate.resolve, clock)
    for position, ip in enumerate(addresses, start=1):
        with _session(ip, clock) as session:
            # The addresses that remain must get their share of the time, too.
            patience = clock.left() / (len(addresses) - position + 1)
            try:
                response = session.get(
                    address, headers=_HEADERS, stream=True, allow_redirects=False, timeout=(patience, clock.left())
                )
            except requests.exceptions.ConnectionError:
                if position == len(addresses) or clock.over:
                    raise
                continue
            with response:
                yield response
            return


def _parsed(address: str, schemes: frozenset[str]) -> SplitResult:
    """Raises InvalidInput for what is no address, UnsafeUrl for one that must not be opened."""
    if len(address) > MAX_ADDRESS_CHARS or re.search(r"[\x00-\x20\x7f\\]", address):
        raise InvalidInput("is not a valid address")
    try:
        parts = urlsplit(address)
        _ = parts.port
    except ValueError:
        raise InvalidInput("is not a valid address") from None
    if parts.scheme not in schemes:
        raise UnsafeUrl("must be an https:// address, and so must what it redirects to")
    if parts.username is not None or parts.password is not None:
        raise UnsafeUrl("must not hold a user name or password")
    if not parts.hostname:
        raise InvalidInput("is not a valid address: it has no host")
    return parts


def _resolved(parts: SplitResult, resolve: Resolve, clock: _Clock) -> list[str]:
    """The host's addresses, looked up within the clock's time."""
    host, port = parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80)
    # The system's resolver has no time limit of its own to set: it is left behind if it takes too long.
    pool = ThreadPoolExecutor(1, thread_name_prefix="resolve")
    try:
        return pool.submit(resolve, host, port).result(timeout=clock.left())
    except TimeoutError:
        raise FetchFailed("its host name could not be looked up in time") from None
    except UnicodeError:
        raise InvalidInput("is not a valid address: there can be no such host") from None
    except OSError:
        raise FetchFailed("its host name could not be looked up") from None
    finally:
        pool.shutdown(wait=False)


def _session(ip: str, clock: _Clock) -> requests.Session:
    """A session that dials `ip` only, whatever the host, and whose connections the clock can cut."""
    adapter = _rp_ssrf().PinnedIPAdapter(ip)
    pinned = adapter.get_connection_with_tls_context

    def watched(*args: Any, **options: Any) -> Any:
        pool = pinned(*args, **options)
        pool.ConnectionCls = _watched(pool.ConnectionCls, clock)
        return pool

    adapter.get_connection_with_tls_context = watched
    session = requests.Session()
    # No proxy, which would look the name up again, and no .netrc, whose passwords are not for these hosts.
    session.trust_env = False
    session.mount("https://", adapter)
    session.mount("http://", adapter)
    return session


def _watched(connection: type[Any], clock: _Clock) -> type[Any]:
    """The connection class, telling the clock of each socket before TLS begins on it."""

    def new_conn(self: Any) -> socket.socket:
        opened: socket.socket = connection._new_conn(self)
        clock.watch(opened)
        return opened

    return type("WatchedConnection", (connection,), {"_new_conn": new_conn})


def _body(response: requests.Response, max_bytes: int) -> bytes:
    """Raises InputTooLarge as soon as the size is known to exceed `max_bytes`."""
    _refuse_status(response.status_code)
    declared = response.headers.get("Content-Length", "")
    if declared.isdecimal() and (len(declared) > _MOST_DIGITS or int(declared) > max_bytes):
        raise InputTooLarge(f"has {declared[:20]} bytes, the limit is {max_bytes}")
    data = bytearray()
    for chunk in response.iter_content(_CHUNK_BYTES):
        data += chunk
        if len(data) > max_bytes:
            raise InputTooLarge(f"has more than {max_bytes} bytes, the limit")
    return bytes(data)


def _refuse_status(status: int) -> None:
    if 200 <= status < 300:
        return
    phrase = f" {responses[status]}" if status in responses else ""
    kind = FetchFailed if status >= 500 or status in _PASSING_STATUS else InvalidInput
    raise kind(f"its server answered {status}{phrase}", details={"status": status})


class _Clock:
    """The time that one source may take in all. When it is over, its connections are cut.

    Timeouts of sockets start anew with each byte, so a server that drips would hold a worker for hours.
    """

    def __init__(self, seconds: float) -> None:
        self._end = time.monotonic() + seconds
        self._cuts: list[socket.socket] = []
        self._lock = threading.Lock()
        self._timer = threading.Timer(seconds, self._ring)
        self._timer.daemon = True

    def __enter__(self) -> Self:
        self._timer.start()
        return self

    def __exit__(self, *raised: object) -> None:
        self._timer.cancel()
        with self._lock:
            for cut in self._cuts:
                cut.close()

    @property
    def over(self) -> bool:
        """Whether the time is up."""
        return time.monotonic() >= self._end

    def left(self) -> float:
        """Seconds that remain, never 0. Raises FetchFailed when there are none."""
        left = self._end - time.monotonic()
        if left <= 0:
            raise FetchFailed("did not arrive in time")
        return left

    def watch(self, connection: socket.socket) -> None:
        """Remember a second handle: TLS takes the first one over, and ends with the connection either way."""
        with self._lock:
            self._cuts.append(connection.dup())
        if self.over:
            self._ring()

    def _ring(self) -> None:
        with self._lock:
            for cut in self._cuts:
                with suppress(OSError):
                    cut.shutdown(socket.SHUT_RDWR)
