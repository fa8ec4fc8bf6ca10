"""What the shipped head is for: people that it was never trained on are drawn from their photos, and nobody else."""

from __future__ import annotations

from darkroom.bench.injection import Plan, album, drawn_people, verdict
from darkroom.cli_bench_injection import workbench

PEOPLE = 8


def test_the_shipped_head_draws_people_from_photos_that_it_never_saw() -> None:
    """By the rulers of a sweep; of the study's 24 other people the margins are in docs/injection.md."""
    plan = Plan()
    # The study's people come first: neither trained on nor used to choose anything.
    strangers = drawn_people(plan.train_people + plan.test_people + PEOPLE, plan.seed)[-PEOPLE:]
    with workbench() as (_, run):
        reply, _ = run(
            "shipped-head",
            {
                "type": "injection_sweep",
                "dataset": album(strangers, 2, seed=77_002),
                "alphas": [0.25, 1.0],
                "gen_seeds": [7],
            },
        )
    assert reply["warnings"] == []
    found = verdict([person["summary"] for person in reply["people"].values()])
    assert found["alpha"] == 1.0
    for control in ("base", "wrong", "random"):
        assert found["margins"][control]["low"] > 0, control
    assert found["adherence_kept"] >= 0.9
