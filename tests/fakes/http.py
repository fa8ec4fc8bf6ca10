"""Web servers that misbehave, on loopback: each route is named for what it does to a client."""

from __future__ import annotations

import socket
import ssl
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

HOST_NAME = "photos.example"
"""The name that the server's certificate is for."""


@dataclass
class WebServer:
    """A running server; `files` are served as they are, `redirects` as 302, `asked` lists what was requested."""

    base: str
    port: int
    files: dict[str, bytes] = field(default_factory=dict)
    redirects: dict[str, str] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    closing: threading.Event = field(default_factory=threading.Event)


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    web: WebServer

    def handle_error(self, request: object, client_address: object) -> None:
        """Clients hang up on these routes by design."""


class _Handler(BaseHTTPRequestHandler):
    server: _Server

    def do_GET(self) -> None:
        web = self.server.web
        web.asked.append(self.path)
        web.headers.append(dict(self.headers.items()))
        route = self.path.partition("?")[0]
        if route in web.files:
            self._answer(200, web.files[route])
        elif route in web.redirects:
            self._answer(302, b"", Location=web.redirects[route])
        elif route.startswith("/status/"):
            self._answer(int(route.rsplit("/", 1)[-1]), b"no picture here")
        else:
            ROUTES.get(route, _Handler._not_found)(self)

    def _answer(self, status: int, body: bytes, **headers: str) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(body)

    def _not_found(self) -> None:
        self._answer(404, b"")

    def never_answers(self) -> None:
        self.server.web.closing.wait(30)

    def drips_body(self) -> None:
        self.send_response(200)
        self.end_headers()
        self._drip(b"x")

    def drips_body_of_known_length(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "1000")
        self.end_headers()
        self._drip(b"x")

    def drips_headers(self) -> None:
        self.wfile.write(b"HTTP/1.1 200 OK\r\nX-Slow: ")
        self._drip(b"x")

    def _drip(self, byte: bytes) -> None:
        while not self.server.web.closing.wait(0.05):
            self.wfile.write(byte)
            self.wfile.flush()

    def too_large_and_says_so(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(10**12))
        self.end_headers()
        self.wfile.write(b"x")
        self.server.web.closing.wait(30)

    def too_large_in_thousands_of_digits(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "9" * 5_000)
        self.end_headers()
        self.wfile.write(b"x")

    def too_large_without_a_word(self) -> None:
        self.send_response(200)
        self.end_headers()
        while not self.server.web.closing.is_set():
            self.wfile.write(bytes(65_536))

    def unpacks_to_far_more(self) -> None:
        import gzip

        self._answer(200, gzip.compress(bytes(50_000_000)), Content_Encoding="gzip")

    def ends_early(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "1000")
        self.end_headers()
        self.wfile.write(b"only this")

    def resets(self) -> None:
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.close()

    def redirects_for_ever(self) -> None:
        self._answer(302, b"", Location=f"{self.path}?again")

    def redirects_to_nowhere(self) -> None:
        self._answer(302, b"")

    def redirects_to_no_address(self) -> None:
        self._answer(302, b"", Location="https://[")

    def log_message(self, format: str, *args: object) -> None:
        """Quiet."""


ROUTES: dict[str, Callable[[_Handler], None]] = {
    f"/{name}": getattr(_Handler, name)
    for name in (
        "never_answers",
        "drips_body",
        "drips_body_of_known_length",
        "drips_headers",
        "too_large_and_says_so",
        "too_large_in_thousands_of_digits",
        "too_large_without_a_word",
        "unpacks_to_far_more",
        "ends_early",
        "resets",
        "redirects_for_ever",
        "redirects_to_nowhere",
        "redirects_to_no_address",
    )
}


@contextmanager
def serve(certificate: Path | None = None) -> Iterator[WebServer]:
    """A server on a free loopback port, with TLS where a certificate (and key, in one file) is given."""
    server = _Server(("127.0.0.1", 0), _Handler)
    if certificate is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
        # The handshake belongs to the connection's own thread, or one silent client would hold all others.
        server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    port = server.server_address[1]
    server.web = WebServer(f"{'https' if certificate else 'http'}://127.0.0.1:{port}", port)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield server.web
    finally:
        server.web.closing.set()
        server.shutdown()
        server.server_close()
        thread.join(5)


@contextmanager
def silence() -> Iterator[int]:
    """A port that takes connections and says nothing, not even in a TLS handshake."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(16)
        yield listener.getsockname()[1]


@contextmanager
def dripping_handshake() -> Iterator[int]:
    """A port that answers a TLS handshake with one byte of a record every 50 ms."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(4)
        closing = threading.Event()
        thread = threading.Thread(target=_drip_record, args=(listener, closing), daemon=True)
        thread.start()
        yield listener.getsockname()[1]
        closing.set()
        thread.join(5)


def _drip_record(listener: socket.socket, closing: threading.Event) -> None:
    client, _ = listener.accept()
    with client:
        # A handshake record of 16,000 bytes is announced, so that the client goes on waiting for the rest.
        for byte in b"\x16\x03\x03\x3e\x80" + bytes(16_000):
            if closing.is_set():
                return
            try:
                client.send(bytes([byte]))
            except OSError:
                return
            time.sleep(0.05)


def write_certificate(folder: Path, host: str = HOST_NAME) -> Path:
    """A self-signed certificate for `host` and its key, in one PEM file that is also its own authority."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, host)])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(host)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    secret = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    path = folder / "certificate.pem"
    path.write_bytes(secret + certificate.public_bytes(serialization.Encoding.PEM))
    return path
