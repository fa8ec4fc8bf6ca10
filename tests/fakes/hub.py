"""A hub on loopback with one file, which it sends piece by piece and only as far as a test lets it."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@dataclass
class Hub:
    """path: /owner/name/resolve/main/file. pieces: of the body, each sent after `more` was released once.

    hung_up: set when a client left before the end. tokens: the Authorization of every request.
    """

    base: str
    path: str
    pieces: list[bytes]
    more: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))
    hung_up: threading.Event = field(default_factory=threading.Event)
    tokens: list[str | None] = field(default_factory=list)
    closing: bool = False

    def open(self) -> None:
        """Send all of it, to whoever asks."""
        self.more.release(1000 * len(self.pieces))


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    hub: Hub

    def handle_error(self, request: object, client_address: object) -> None:
        """Clients hang up by design."""


class _Handler(BaseHTTPRequestHandler):
    server: _Server

    def do_HEAD(self) -> None:
        self._head()

    def do_GET(self) -> None:
        hub = self.server.hub
        if not self._head():
            return
        for piece in hub.pieces:
            # A client that has left is seen by writing: the first piece after it may still be taken by the system.
            hub.more.acquire()
            if hub.closing:
                return
            try:
                self.wfile.write(piece)
            except OSError:
                hub.hung_up.set()
                return

    def _head(self) -> bool:
        hub = self.server.hub
        hub.tokens.append(self.headers.get("Authorization"))
        found = self.path == hub.path
        self.send_response(200 if found else 404)
        if found:
            self.send_header("ETag", '"0f0f"')
            self.send_header("X-Repo-Commit", COMMIT)
        else:
            self.send_header("X-Error-Code", "EntryNotFound")
        self.send_header("Content-Length", str(sum(map(len, hub.pieces)) if found else 0))
        self.end_headers()
        return found

    def log_message(self, format: str, *args: object) -> None:
        """Quiet."""


@contextmanager
def serve(path: str, pieces: list[bytes]) -> Iterator[Hub]:
    """A hub with one file on a free loopback port."""
    server = _Server(("127.0.0.1", 0), _Handler)
    server.hub = Hub(f"http://127.0.0.1:{server.server_address[1]}", path, pieces)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield server.hub
    finally:
        server.hub.closing = True
        server.hub.open()
        server.shutdown()
        server.server_close()
        thread.join(5)
