"""An S3 server that minds `If-None-Match: *`, which rclone does not: a proxy before it that judges PutObject alone."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

from tests.fakes.s3 import S3Server


@dataclass
class Conditional:
    """server: as the client sees it. asked: method and path of every request. refuses: how it answers the condition
    itself, for a server that does not know it, as (status, code). hides: where something is missing it answers 403, as
    Amazon does to keys that may not list.
    """

    server: S3Server
    asked: list[tuple[str, str]] = field(default_factory=list)
    refuses: tuple[int, str] | None = None
    hides: bool = False


class _Proxy(ThreadingHTTPServer):
    daemon_threads = True
    behind: S3Server
    seen: Conditional
    writing: threading.Lock

    def handle_error(self, request: object, client_address: object) -> None:
        """Clients keep connections open and drop them."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Proxy

    def do_GET(self) -> None:
        self._any()

    def do_HEAD(self) -> None:
        self._any()

    def do_PUT(self) -> None:
        self._any()

    def _any(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.server.seen.asked.append((self.command, urlsplit(self.path).path))
        if self.command != "PUT" and self.server.seen.hides and not self._object().exists():
            self._refuse(403, "AccessDenied")
        elif self.command != "PUT" or self.headers.get("If-None-Match") != "*":
            self._forward(body)
        elif self.server.seen.refuses is not None:
            self._refuse(*self.server.seen.refuses)
        else:
            with self.server.writing:
                if self._object().exists():
                    self._refuse(412, "PreconditionFailed")
                else:
                    self._forward(body)

    def _object(self) -> Path:
        return self.server.behind.root / unquote(urlsplit(self.path).path).lstrip("/")

    def _forward(self, body: bytes) -> None:
        connection = HTTPConnection("127.0.0.1", self.server.behind.port, timeout=10)
        # Host and signature stay as they came: the request was signed for this proxy.
        headers = {name: value for name, value in self.headers.items() if name.lower() != "expect"}
        connection.request(self.command, self.path, body, headers)
        answer = connection.getresponse()
        self._answer(answer.status, dict(answer.getheaders()), answer.read())
        connection.close()

    def _refuse(self, status: int, code: str) -> None:
        body = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>no</Message></Error>".encode()
        self._answer(status, {"Content-Type": "application/xml"}, body)

    def _answer(self, status: int, headers: dict[str, str], body: bytes) -> None:
        self.send_response_only(status)
        length = headers.get("Content-Length", str(len(body)))
        kept = {n: v for n, v in headers.items() if n.lower() not in {"content-length", "transfer-encoding"}}
        for name, value in {**kept, "Content-Length": length}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Quiet."""


@contextmanager
def serve(behind: S3Server) -> Iterator[Conditional]:
    """Run the proxy on a free loopback port."""
    proxy = _Proxy(("127.0.0.1", 0), _Handler)
    proxy.behind, proxy.writing = behind, threading.Lock()
    proxy.seen = Conditional(replace(behind, endpoint_url=f"http://127.0.0.1:{proxy.server_address[1]}"))
    thread = threading.Thread(target=proxy.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield proxy.seen
    finally:
        proxy.shutdown()
        proxy.server_close()
        thread.join(5)
