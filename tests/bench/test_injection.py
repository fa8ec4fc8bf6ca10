"""The tuning study's own arithmetic, and a small run of it on random weights."""

from __future__ import annotations

import io
import json
import zipfile
from base64 import b64decode
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from darkroom.bench.injection import HEAD, Plan, Variant, album, drawn_people, pick, study, table, variants, verdict
from darkroom.bench.injection_plots import plots
from darkroom.cli import app


def rows(person: float, alpha: float, adherence: float) -> list[dict[str, Any]]:
    """One person's figures at strength `alpha`."""
    common = {"sharpness": 1.0, "diversity": 0.1}
    return [
        {"kind": "identity", "alpha": alpha, "similarity": person, "adherence": adherence, **common},
        {"kind": "wrong", "alpha": alpha, "similarity": 0.5, "adherence": adherence, **common},
        {"kind": "random", "alpha": alpha, "similarity": 0.4, "adherence": adherence, **common},
    ]


BASE = [{"kind": "base", "alpha": 0.0, "similarity": 0.45, "adherence": 1.0, "sharpness": 1.0, "diversity": 0.1}]


def test_no_two_people_look_alike_and_they_are_drawn_again_alike() -> None:
    people = drawn_people(400, 1)
    assert len({person.caption() for person in people}) == 400
    assert people[:10] == drawn_people(10, 1)
    assert album(people[:2], 2, 5) == album(people[:2], 2, 5)
    data = b64decode(album(people[:2], 2, 5, first=7).split(",", 1)[1])
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        assert archive.namelist()[:3] == [
            "seed_0007/caption.txt", "seed_0007/photo_view_00.png", "seed_0007/photo_view_01.png",
        ]  # fmt: skip
        assert archive.read("seed_0007/caption.txt").decode() == people[0].caption()


def test_the_strength_is_chosen_on_half_of_the_people_and_judged_on_the_other() -> None:
    """At α = 2 the first half is most alike, but the prompt is lost; the second half must not have a say."""
    chooser = [*BASE, *rows(0.7, 1.0, 0.95), *rows(0.9, 2.0, 0.5)]
    judged = [[*BASE, *rows(0.6 + 0.01 * n, 1.0, 0.9), *rows(0.99, 2.0, 1.0)] for n in range(4)]
    found = verdict([chooser] * 4 + judged)
    assert found["alpha"] == 1.0
    assert found["similarity"] == pytest.approx(0.615)
    assert found["margins"]["wrong"]["mean"] == pytest.approx(0.115)
    assert found["margins"]["base"]["low"] > 0.15
    assert found["adherence_kept"] == pytest.approx(0.9)
    assert "caption" not in found["margins"]


def test_every_knob_is_turned_by_itself() -> None:
    names = [variant.name for variant in variants(quick=False)]
    assert len(set(names)) == len(names)
    assert {"defaults", "lr 0.001", "slots 8", "rank 64", "objective zero"} <= set(names)
    assert [variant.name for variant in variants(quick=True)] == [
        "defaults", "objective flow, epochs 4", "objective both, epochs 4", "objective zero",
    ]  # fmt: skip


def test_variants_are_picked_by_name_and_a_wrong_one_is_told() -> None:
    assert [variant.name for variant in pick(False, ["rank 64", "defaults"], "defaults", None)] == [
        "defaults", "rank 64",
    ]  # fmt: skip
    assert pick(False, ["rank 64"], None, 3) == [Variant("rank 64", {"rank": 64, "epochs": 3})]
    named = pick(False, ["objective flow, epochs 4"], None, 8)[0]
    assert named.fields["epochs"] == 4, "a name that says how long must not lie"
    wrong = ((["rang 64"], None, "only: .*rang 64"), (["rank 64"], "slots 8", "install: .*slots 8"))
    for only, ship, words in wrong:
        with pytest.raises(ValueError, match=words):
            pick(False, only, ship, None)


def test_seconds_ship_no_head() -> None:
    result = CliRunner().invoke(app, ["bench", "injection", "--speed", "--install", "defaults"])
    assert result.exit_code == 2
    assert "--install: --speed trains no head" in " ".join(result.output.split())


def test_a_study_goes_on_where_it_stopped_and_writes_a_table(tmp_path: Path) -> None:
    asked: list[str] = []

    def run(job_id: str, job_input: Mapping[str, Any]) -> tuple[Mapping[str, Any], Path]:
        asked.append(job_id)
        if job_input["type"] == "injection_train":
            (tmp_path / HEAD).parent.mkdir(exist_ok=True)
            (tmp_path / HEAD).write_bytes(b"head")
            return {"validation_loss": 0.5, "timings": {"total_ms": 2000.0}}, tmp_path
        summary = [*BASE, *rows(0.8, 1.0, 1.0)]
        return {"people": {f"seed_{n}": {"summary": summary} for n in range(4)}}, tmp_path

    plan = Plan(train_people=2, test_people=4, views=1)
    chosen = [Variant("defaults"), Variant("slots 4", {"slots": 4})]
    first = study(plan, chosen, run, tmp_path / "out", lambda line: None)
    assert len(asked) == 4
    assert json.loads(json.dumps(study(plan, chosen, run, tmp_path / "out", lambda line: None))) == first
    assert len(asked) == 4
    assert "| slots 4 | 1 | 0.800 | +0.350 [+0.350, +0.350] | +0.300" in table(first)
    assert plots(first).startswith(b"\x89PNG")
