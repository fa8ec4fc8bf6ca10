"""What a bridge costs an edit, measured on the smallest edit there is."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from darkroom.bench import bridge as bench
from darkroom.cli import app
from darkroom.models.enhanced import Sampling


def test_the_command_measures_all_three_sides_and_writes_them_down(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bench, "Sampling", lambda: Sampling(steps=1, true_cfg_scale=1.0, size=(64, 64)))
    out = tmp_path / "deep" / "bridge.json"
    result = CliRunner().invoke(app, ["bench", "bridge", "--rounds", "2", "-o", str(out)])
    assert result.exit_code == 0, result.output
    found = json.loads(out.read_text())
    sides = ["baseline", "bridge, cached", "bridge, new"]
    assert list(found["median_seconds"]) == sides
    assert all(low <= found["median_seconds"][name] <= high for name, (low, high) in found["spread_seconds"].items())
    assert list(found["overhead"]) == list(found["target"]) == sides[1:]
    assert (found["rounds"], found["steps"], found["true_cfg_scale"]) == (2, 1, 1.0)
    assert found["commit"]
    assert found["machine"]
    assert "target below 5%" in result.output
