"""What starts without torch: a laptop that only sends jobs must not wait for it, nor have it."""

from __future__ import annotations

import subprocess
import sys
from importlib.util import find_spec

import pytest

from tests.test_rooms import TORCH, WITHOUT_TORCH

PROBE = """
import sys
import {module}
print(*sorted({heavy} & {{name.split(".")[0] for name in sys.modules}}))
"""

ROOMS = [f"darkroom.{room}" for room in sorted(WITHOUT_TORCH) if find_spec(f"darkroom.{room}")]


@pytest.mark.parametrize("module", ["darkroom", *ROOMS])
def test_a_fresh_process_imports_it_without_torch(module: str) -> None:
    """Also through what it imports, which the reading of the source in test_rooms cannot see."""
    script = PROBE.format(module=module, heavy=TORCH | {"runpod"})
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout.strip(), done.stderr) == (0, "", "")
