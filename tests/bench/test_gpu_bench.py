"""The GPU benchmark, whole and at small size on the CPU."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from darkroom.bench.gpu.__main__ import main
from darkroom.bench.gpu.cold_start import bytes_of
from darkroom.bench.gpu.family import processor_of, random_part
from darkroom.bench.gpu.flops import forward_flops
from darkroom.bench.gpu.measures import Run, equality
from darkroom.bench.gpu.record import Record
from darkroom.bench.gpu.report import markdown
from darkroom.bench.gpu.sections import plan
from darkroom.bench.gpu.size import FULL, SMALL

MEASURED_ON_A_GPU_ALONE = {"matrix rate, fp8", "lever: compile (with lean)"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `python -m darkroom.bench.gpu --small` leaves."""
    out = tmp_path_factory.mktemp("gpu")
    main(out=out, seconds=470.0, small=True)
    return out


@pytest.fixture(scope="module")
def sections(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "gpu.json").read_text())["sections"]
    return found


def numbers(value: Any) -> Iterator[float]:
    if isinstance(value, dict | list):
        for inside in value.values() if isinstance(value, dict) else value:
            yield from numbers(inside)
    elif isinstance(value, int | float):
        yield value


def test_every_section_is_measured_at_small_size(sections: dict[str, Any]) -> None:
    planned = {section.name for section in plan(Run(SMALL), lambda: 0.0, None)}
    assert set(sections) == planned
    assert {name for name, said in sections.items() if said["status"] != "measured"} == MEASURED_ON_A_GPU_ALONE


def test_all_numbers_are_finite_and_all_times_positive(sections: dict[str, Any]) -> None:
    assert all(math.isfinite(number) for number in numbers(sections))
    for said in sections.values():
        if "forward" in said:
            assert min(said[name]["median_seconds"] for name in ("forward", "edit_4", "edit_8_cfg")) > 0
            assert said["problem"] is None


def test_every_variant_is_the_baselines_picture_within_its_bound(sections: dict[str, Any]) -> None:
    found = {name: said["equality"]["within"] for name, said in sections.items() if "forward" in said and said["ratio"]}
    assert set(found.values()) == {True}
    levers = {f"lever: {name}" for name in ("fold", "lean", "conv2d", "fp8", "int8")}
    assert levers | {"all, bf16", "all, fp8"} <= set(found)
    assert sections["guided step"]["equality"]["within"]
    assert all(sections["vae"]["equality"][way]["within"] for way in ("encode", "decode"))


def test_the_engine_takes_as_many_forwards_as_the_pipeline_and_no_more_encoders(sections: dict[str, Any]) -> None:
    theirs = sections["diffusers"]["calls_edit_4"]
    for name in ("engine without levers", "all, bf16", "all, fp8"):
        ours = sections[name]["calls_edit_4"]
        assert ours["transformer"] == theirs["transformer"] == 4
        assert all(ours[part] <= theirs[part] for part in theirs)


def test_what_is_loaded_from_the_disk_is_what_was_written(sections: dict[str, Any]) -> None:
    cold = sections["cold start"]
    assert cold["from_pretrained"]["equal"]
    assert cold["packed_fp8"]["equal"]
    assert cold["packed_fp8"]["bytes"] < cold["from_pretrained"]["bytes"]


def test_the_page_is_made_of_the_record_and_names_what_was_not_measured(folder: Path) -> None:
    content = json.loads((folder / "gpu.json").read_text())
    page = (folder / "gpu.md").read_text()
    assert page == markdown(content)
    assert "lever: compile (with lean): skipped, measured on a GPU alone" in page


def test_a_section_that_does_not_fit_is_skipped_and_one_that_fails_stops_no_other(tmp_path: Path) -> None:
    record = Record(tmp_path, time.monotonic() + 10, {})
    record.section("fails", 1.0, lambda: {"ratio": 1 / 0})
    record.section("too long", 60.0, lambda: {"ratio": 1.0})
    record.section("no number", 1.0, lambda: {"ratio": math.nan})
    record.section("fits", 1.0, lambda: {"ratio": 1.0})
    kept = json.loads((tmp_path / "gpu.json").read_text())["sections"]
    assert [said["status"] for said in kept.values()] == ["failed", "skipped", "failed", "measured"]
    assert kept["fails"]["reason"] == "ZeroDivisionError: division by zero"
    assert kept["too long"]["reason"].startswith("out of time: needs about 60 s")


def test_not_a_number_is_not_within_any_bound() -> None:
    found = equality(torch.tensor([1.0, math.nan]), torch.ones(2), 0.0)
    assert found is not None
    assert not found["within"]


def test_weights_are_the_same_in_every_run_and_never_zero() -> None:
    tokenizer = processor_of(SMALL).tokenizer
    first, second = (random_part(SMALL, "transformer", tokenizer, "bf16", lean=True) for _ in range(2))
    for one, other in zip(first.parameters(), second.parameters(), strict=True):
        assert torch.equal(one, other)
        assert one.abs().max() > 0


def test_a_full_checkpoint_fits_the_disk_that_is_promised() -> None:
    assert bytes_of(FULL, "bf16") < 60e9
    assert bytes_of(FULL.shallower(0.5), "bf16") < 0.6 * bytes_of(FULL, "bf16")


@pytest.mark.parametrize("zero_cond_t", [True, False])
def test_the_formula_counts_what_torch_counts(zero_cond_t: bool) -> None:
    from diffusers import QwenImageTransformer2DModel

    config = {**SMALL.transformer, "zero_cond_t": zero_cond_t}
    transformer, text, grid = QwenImageTransformer2DModel(**config), 11, (4, 6)
    image = torch.randn(1, 2 * 24, config["in_channels"])
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        transformer(
            hidden_states=image,
            encoder_hidden_states=torch.randn(1, text, config["joint_attention_dim"]),
            timestep=torch.tensor([0.5]),
            img_shapes=[[(1, *grid), (1, *grid)]],
        )
    assert forward_flops(config, image.shape[1], text) == counter.get_total_flops()


def test_one_forward_at_full_size_is_167_tflop() -> None:
    assert forward_flops(FULL.transformer, 8192, 250) / 1e12 == pytest.approx(167.3, abs=0.1)
