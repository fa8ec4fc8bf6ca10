"""The CPU benchmark of levers, on a family with random weights and with as few steps as show the law."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from darkroom.bench.cpu import page
from darkroom.bench.engine import CASES, compare, missed
from darkroom.bench.gpu.cold_start import cold_start
from darkroom.bench.gpu.size import SMALL
from darkroom.bench.levers import accelerations, second_edit, single_levers, with_levers
from darkroom.bench.machine import machine
from darkroom.bench.picture import reference_card
from darkroom.models.areas import Areas
from darkroom.models.editor import Editor
from darkroom.models.presets import POCKET
from darkroom.models.shelf import Shelf
from darkroom.models.specs import PROFILES, ModelSpec

SIDE = 64
CASE = replace(CASES[0], steps=2)


@pytest.fixture(scope="module")
def editor(family: Path) -> Editor:
    spec = ModelSpec(str(family), areas=Areas(SIDE**2, SIDE**2), presets=POCKET)
    kept = Shelf(replace(PROFILES["pocket"], models={"edit": spec})).editor("edit")
    return with_levers(kept, kept.levers)


@pytest.fixture(scope="module")
def picture() -> Image.Image:
    return reference_card(SIDE)


@pytest.fixture(scope="module")
def result(editor: Editor, picture: Image.Image) -> dict[str, Any]:
    """What `make bench` stores, but for the seconds that fresh processes take."""
    return {
        "commit": None,
        "machine": machine(),
        **compare(editor, [picture], 1, [CASE]),
        "levers": single_levers(editor, [picture], 1, CASE),
        "cache": second_edit(editor, [picture], 1, CASE),
        "acceleration": accelerations(editor, [picture], 1, steps=8),
        "load": cold_start(SMALL, None, 60.0, 10**9, runs=2),
    }


def test_no_lever_moves_a_pixel_by_more_than_a_level_and_folding_moves_none(result: dict[str, Any]) -> None:
    moved = {name: row["equality"]["largest_difference_levels"] for name, row in result["levers"].items()}
    assert moved["none"] == moved["fold"] == 0
    assert max(moved.values()) <= 1
    assert {"fold", "lean", "conv2d", "every"} < set(moved)


def test_levers_take_no_forward_or_encoder_call_more(result: dict[str, Any]) -> None:
    rows = result["levers"].values()
    assert {row["forwards"] for row in rows} == {2 * CASE.steps}
    # One look, two readings (prompt and negative), one picture for the VAE.
    assert {row["encoder_calls"] for row in rows} == {4}


def test_folding_holds_a_third_less_of_the_transformer(result: dict[str, Any], editor: Editor) -> None:
    whole = sum(p.numel() * p.element_size() for p in editor.transformer.parameters())
    saved = result["levers"]["none"]["bytes_held"] - result["levers"]["fold"]["bytes_held"]
    assert 0.25 < saved / whole < 0.4


def test_the_same_edit_again_calls_no_encoder_and_is_bit_equal(result: dict[str, Any]) -> None:
    cache = result["cache"]
    assert cache["encoder_calls"] == {"cached": 0, "uncached": 4}
    assert cache["equality"]["largest_difference_levels"] == 0
    assert cache["equal_to_first"]


def test_acceleration_computes_fewer_steps_and_says_what_it_costs(result: dict[str, Any]) -> None:
    rows = result["acceleration"]
    assert rows["none"]["forwards"] == 8 > rows["cache"]["forwards"] > rows["aggressive"]["forwards"]
    assert rows["none"]["equality"]["psnr_db"] is None
    assert all(rows[name]["equality"]["psnr_db"] > 0 for name in ("cache", "aggressive"))


def test_packed_weights_are_loaded_from_fewer_bytes(result: dict[str, Any]) -> None:
    load = result["load"]
    assert load["from_pretrained"]["equal"]
    assert load["packed_fp8"]["equal"]
    assert load["packed_fp8"]["bytes"] < load["from_pretrained"]["bytes"]


def test_the_page_has_every_lever_and_every_bar_that_was_missed(result: dict[str, Any]) -> None:
    text = page(result)
    assert [name for name in (*result["levers"], *result["acceleration"]) if f"| {name} |" not in text] == []
    assert text.count("Missed: ") == len(missed(result))


def test_a_case_above_its_bar_is_named() -> None:
    case = {"case": "one edit", "ratio": 0.9, "bar": 0.8}
    assert missed({"cases": [case]}) == ["one edit: 0.90 of diffusers' time, the bar is 0.8"]
