"""Several GPUs in one worker: what is refused at start; followers end with their worker. Jobs: tests/service."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from darkroom.errors import ModelNotReady
from darkroom.models.crew import Crew, check_heads
from darkroom.models.specs import resolve
from darkroom.settings import Settings

WORKER = """
import sys, time
from pathlib import Path
from darkroom.models.crew import Crew
from darkroom.models.specs import resolve
from darkroom.settings import Settings

crew = Crew(resolve(Settings(profile="pocket", gpus=2), None))
crew.load(Path(sys.argv[1]))
assert crew._orders[0].recv_bytes() == b"loaded"
print("loaded", flush=True)
time.sleep(600)
"""


def test_more_gpus_than_there_are_stop_the_start() -> None:
    with pytest.raises(ValueError, match="DARKROOM_GPUS is 64, and this machine has"):
        Crew(resolve(Settings(profile="a100", gpus=64), None))


def test_heads_are_shared_evenly_or_not_at_all(family: Path) -> None:
    for gpus in (1, 2, 3, 6):
        check_heads(family, gpus)
    with pytest.raises(ModelNotReady, match="DARKROOM_GPUS=4 does not divide this model's 6 attention heads"):
        check_heads(family, 4)


def test_followers_end_with_a_worker_that_is_killed(family: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", WORKER, str(family)], stdout=subprocess.PIPE) as worker:
        assert worker.stdout is not None
        assert worker.stdout.readline() == b"loaded\n"
        worker.kill()
        # A follower has inherited the pipe, which ends with its last holder.
        worker.communicate(timeout=30)
