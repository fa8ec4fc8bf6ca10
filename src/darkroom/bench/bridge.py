"""What a bridge costs an edit: with what Qwen3-VL sees kept from before, and with every picture new.

The sides take turns within every round, so that whatever else the machine does falls on all of them.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from PIL.Image import Image

from darkroom.bench.machine import commit, machine
from darkroom.bench.picture import reference_card
from darkroom.models.bridge import Bridge, untrained
from darkroom.models.enhanced import EnhancedEditor, Sampling, form_for
from darkroom.models.shelf import Shelf
from darkroom.models.specs import PROFILES, ModelSpec
from darkroom.models.towers import outputs_of
from darkroom.pocket.qwen3vl import build

PROMPT = "make it sepia"


def opened(bridge: Bridge) -> Bridge:
    """The same bridge with an open gate: what it costs does not depend on what it has learnt."""
    assert bridge.module.gate is not None
    bridge.module.gate.data.fill_(0.1)
    return bridge


def measure(shelf: Shelf, picture: Image, rounds: int = 7, sampling: Sampling | None = None) -> dict[str, Any]:
    """Seconds of one edit without a bridge, with one and cached sight, and with one and a new picture; and their parts.

    The editor keeps no encodings here, so that every side pays for its own. Medians over `rounds`; shares of the
    edit without a bridge.
    """
    sampling = sampling or Sampling()
    eyes, editor = shelf.vision(), shelf.editor("edit")
    enhanced = EnhancedEditor(editor, opened(untrained(form_for(editor, eyes))))
    kept = enhanced.sights(eyes, [picture])
    looks = 0

    def baseline() -> None:
        enhanced.render(PROMPT, editor.reference([picture]), sampling, [0])

    def cached() -> None:
        enhanced.render(PROMPT, enhanced.pair([picture], kept).enhanced, sampling, [0])

    def uncached() -> None:
        nonlocal looks
        with outputs_of([eyes.model.visual]) as runs:
            sights = enhanced.sights(eyes, [picture])
            looks += len(runs)
        enhanced.render(PROMPT, enhanced.pair([picture], sights).enhanced, sampling, [0])

    sides: dict[str, Callable[[], None]] = {"baseline": baseline, "bridge, cached": cached, "bridge, new": uncached}
    for run in sides.values():
        run()
    looks, seconds = 0, {name: list[float]() for name in sides}
    for _ in range(rounds):
        for name, run in sides.items():
            started = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - started)
    assert looks == rounds, "the uncached side must look every time"
    plain = seconds["baseline"]
    overhead = {
        name: statistics.median(now / before - 1 for now, before in zip(values, plain, strict=True))
        for name, values in seconds.items()
        if name != "baseline"
    }
    return {
        "rounds": rounds,
        "steps": sampling.steps,
        "true_cfg_scale": sampling.true_cfg_scale,
        "median_seconds": {name: round(statistics.median(values), 4) for name, values in seconds.items()},
        "spread_seconds": {name: [round(min(values), 4), round(max(values), 4)] for name, values in seconds.items()},
        "overhead": {name: round(share, 4) for name, share in overhead.items()},
        "target": {"bridge, cached": 0.05, "bridge, new": 0.10},
    }


def study(rounds: int = 7) -> dict[str, Any]:
    """On the pocket editor and a pocket Qwen3-VL with random weights, whose values cost nothing; JSON values."""
    pocket = PROFILES["pocket"]
    with tempfile.TemporaryDirectory(prefix="darkroom-bench-") as folder:
        vision = ModelSpec(str(build(Path(folder) / "qwen3vl")))
        shelf = Shelf(replace(pocket, models={**pocket.models, "vision": vision}, cache_mib=0.0))
        found = measure(shelf, reference_card(), rounds)
    return {"commit": commit(), "machine": machine(), **found}
