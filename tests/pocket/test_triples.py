"""Triples of the pocket world are what `bridge_train` takes; `darkroom pocket` refuses what it does not know."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from darkroom.cli_pocket import pocket
from darkroom.jobs import Limits
from darkroom.media.triples import TripleArchive
from darkroom.pocket.triples import DECIDED_BY_DOT, draw_triples, write_pocket_triples
from darkroom.pocket.world.edits import KINDS


def test_the_zip_is_read_back_with_marks_where_they_decide(tmp_path: Path) -> None:
    assert write_pocket_triples(tmp_path / "t.zip", 6, seed=3) == 6
    archive = TripleArchive(tmp_path / "t.zip", "dataset", Limits())
    drawn = list(draw_triples(6, seed=3))
    assert [triple.prompt for triple in archive.triples] == [prompt for _, prompt, _ in drawn]
    for number, (triple, (_, _, pictures)) in enumerate(zip(archive.triples, drawn, strict=True)):
        assert set(triple.pictures) == {"source", "target", "sharp"} | ({"sight"} if number % 2 == 0 else set())
        for role, index in triple.pictures.items():
            assert np.array_equal(np.asarray(archive.picture(index)), np.asarray(pictures[role]))


def test_kinds_can_be_chosen() -> None:
    names = [name for name, *_ in draw_triples(4, kinds=["dot move", "sepia"])]
    assert [name.partition("_")[2] for name in names] == ["dot_move", "sepia"] * 2


def test_a_kind_either_shows_what_its_words_mean_or_is_refused(tmp_path: Path) -> None:
    refused = {"label": "no sharper look", "arrow": "no sharper look", "follow": "3 pictures", "follow people": "3 pic"}
    for kind in KINDS:
        if kind in refused:
            out = tmp_path / "t.zip"
            answer = CliRunner().invoke(pocket, ["triples", str(out), "--count", "2", "--kind", kind])
            assert answer.exit_code == 2
            assert "--kind: " in answer.output
            assert kind in answer.output
            assert refused[kind] in answer.output
            assert not out.exists()
            continue
        ((_, _, pictures),) = draw_triples(1, kinds=[kind])
        assert ("sight" in pictures) == (kind in DECIDED_BY_DOT)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["triples", "--kind", "dance"], "dance: not one of"),
        (["evaluate", "--kind", "dance"], "dance: not one of"),
        (["evaluate", "--size", "100x130"], "multiples of 16"),
        (["evaluate", "--size", "big"], "write it as 160x96"),
        (["train", "--part", "wheels"], "wheels: not one of edit, lightning, qwen3vl"),
    ],
)
def test_what_it_does_not_know_is_named(arguments: list[str], said: str) -> None:
    result = CliRunner(env={"COLUMNS": "200"}).invoke(pocket, arguments)
    assert result.exit_code == 2
    assert said in " ".join(result.output.replace("│", " ").split())
