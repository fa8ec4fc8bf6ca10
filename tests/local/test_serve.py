"""`serve` in a terminal: an address, an orderly end at Ctrl-C, a sentence where it cannot start."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

SCRIPT = """
import sys
from darkroom.local import EndpointConfig, serve
config = EndpointConfig(command=("true",), workers_max=0, port=0, data=sys.argv[1], store=None)
serve(config, ready=lambda address: print(address, flush=True))
print("ended", flush=True)
"""


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_a_signal_ends_it_in_good_order(tmp_path: Path, name: str) -> None:
    with subprocess.Popen([sys.executable, "-W", "error", "-c", SCRIPT, str(tmp_path / "data")],
                          stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        address = process.stdout.readline().strip()
        assert httpx.get(f"{address}/v2/local/health", trust_env=False).status_code == 200
        process.send_signal(getattr(signal, name))
        said, complaints = process.communicate(timeout=20)
    assert (process.returncode, said.strip(), complaints) == (0, "ended", "")
