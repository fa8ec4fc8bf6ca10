"""Which stages of a training are finished, and what held-out cases say of them: `work`/scores."""

from collections.abc import Mapping
from pathlib import Path

from darkroom.pocket.stages.checkpoint import load_note, save_note
from darkroom.pocket.stages.course import Course


def tell(
    work: Path, stage: str, steps: int, figures: Mapping[str, float], course: Course, models: str | None = None
) -> None:
    """Print what held-out cases say of a stage, and write it to `work`/scores: now the stage is finished.

    models: what it was made for, where that may change.
    """
    course.report(f"{stage}, held out: " + ", ".join(f"{name} {value:.3g}" for name, value in figures.items()))
    path = work / "scores" / f"{stage}.json"
    save_note(path, {"steps": steps, "models": models, "held_out": dict(figures)})


def finished(work: Path, stage: str, steps: int, models: str | None = None) -> bool:
    """Whether so many steps of a stage have been made and judged, for these models."""
    told = load_note(work / "scores" / f"{stage}.json")
    return told is not None and bool(told["steps"] >= steps and told["models"] == models)
