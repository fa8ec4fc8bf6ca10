"""`make demo` where the model cannot be loaded: a sentence and exit code 1, no silence."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def test_a_demo_whose_worker_does_not_boot_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = importlib.util.spec_from_file_location("demo_under_test", ROOT / "examples" / "demo.py")
    assert spec is not None
    assert spec.loader is not None
    demo = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "demo_under_test", demo)
    spec.loader.exec_module(demo)
    monkeypatch.chdir(tmp_path)
    worker = ROOT / "tests" / "fakes" / "workers" / "never_boots.py"
    real = demo.demo
    monkeypatch.setattr(demo, "demo", lambda handler: real(worker))
    with pytest.raises(SystemExit) as end:
        demo.main()
    assert "no worker takes the job: workers end before they ask for a job" in str(end.value.code)
