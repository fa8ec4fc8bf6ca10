"""Webhooks: the body of /status, called until one is accepted, also across a restart."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from darkroom.local import start
from tests.local.conftest import Api, config_of, until


class Receiver(ThreadingHTTPServer):
    """Answers with the given statuses in turn, the last one for ever; keeps what it was sent."""

    daemon_threads = True

    def __init__(self, statuses: list[int]) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.statuses = statuses
        self.bodies: list[dict] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/hook"


class _Handler(BaseHTTPRequestHandler):
    server: Receiver

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        self.server.bodies.append(json.loads(body))
        statuses = self.server.statuses
        self.send_response(statuses.pop(0) if len(statuses) > 1 else statuses[0])
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Quiet."""


@contextmanager
def receiver(*statuses: int) -> Iterator[Receiver]:
    server = Receiver(list(statuses))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_a_webhook_that_fails_is_called_again_until_it_succeeds(moody: Api) -> None:
    with receiver(500, 503, 200) as hook:
        job = moody.run("echo", x=1, top={"webhook": hook.url})
        state = moody.end(job)
        until(lambda: hook.bodies, lambda bodies: len(bodies) == 3, 10)
        assert hook.bodies == [state] * 3
        moody.sync()
        assert len(hook.bodies) == 3


def test_a_webhook_is_given_up_after_three_calls_and_the_job_is_none_the_worse(moody: Api) -> None:
    with receiver(500) as hook:
        job = moody.run("fails", top={"webhook": hook.url})
        until(lambda: hook.bodies, lambda bodies: len(bodies) == 3, 10)
        assert {body["status"] for body in hook.bodies} == {"FAILED"}
        assert moody.status(job)["status"] == "FAILED"
    job = moody.run("echo", top={"webhook": "http://127.0.0.1:9/nobody-listens"})
    assert moody.end(job)["status"] == "COMPLETED"


def test_a_cancelled_job_calls_its_webhook_too_and_a_redirect_is_not_followed(nobody: Api) -> None:
    with receiver(302, 200) as hook:
        job = nobody.run(top={"webhook": hook.url})
        nobody.http.post(f"/cancel/{job}")
        until(lambda: hook.bodies, lambda bodies: len(bodies) == 2, 10)
        assert hook.bodies[0] == nobody.status(job)
        assert hook.bodies[0]["status"] == "CANCELLED"


def test_a_receiver_that_never_answers_does_not_delay_the_others(tmp_path: Path) -> None:
    config = config_of("moody", tmp_path, workers_max=0, limits={"webhook_timeout_seconds": 120, "queue_free": 100})
    endpoint = start(config)
    api = Api(endpoint.address, tmp_path)
    try:
        with socket.create_server(("127.0.0.1", 0), backlog=100) as deaf, receiver(200) as hook:
            address = f"http://127.0.0.1:{deaf.getsockname()[1]}/"
            for _ in range(40):
                api.run(top={"webhook": address})
            api.http.post("/purge-queue")
            job = api.run(top={"webhook": hook.url})
            api.http.post(f"/cancel/{job}")
            until(lambda: hook.bodies, len, 30)
            assert [body["id"] for body in hook.bodies] == [job]
            endpoint.stop()
    finally:
        api.http.close()
        endpoint.kill()


def test_a_webhook_that_was_due_at_a_kill_is_called_after_the_restart(tmp_path: Path) -> None:
    with receiver(500, 200) as hook:
        config = config_of("moody", tmp_path, workers_max=0, limits={"webhook_delay_seconds": 1.5})
        endpoint = start(config)
        api = Api(endpoint.address, tmp_path)
        api.http.post(f"/cancel/{api.run(top={'webhook': hook.url})}")
        until(lambda: hook.bodies, len, 10)
        endpoint.kill()
        api.http.close()
        assert len(hook.bodies) == 1
        endpoint = start(config)
        until(lambda: hook.bodies, lambda bodies: len(bodies) == 2, 10)
        endpoint.stop()
