"""One recipe per job type. The table names modules, so that a type's imports are paid by its first job."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import cast

from darkroom.workers.recipe import Desk, Event, Progress, Recipe, Stored, Streamed, Unencoded, Work

__all__ = ["RECIPES", "Desk", "Event", "Progress", "Recipe", "Stored", "Streamed", "Unencoded", "Work", "recipe"]

RECIPES: Mapping[str, str] = {
    "image_edit": "darkroom.workers.image_edit",
    "image_generate": "darkroom.workers.image_generate",
    "video_edit": "darkroom.workers.video_edit",
    "injection_sweep": "darkroom.workers.injection_sweep",
    "injection_train": "darkroom.workers.injection_train",
    "bridge_compare": "darkroom.workers.bridge_compare",
    "bridge_evaluate": "darkroom.workers.bridge_evaluate",
    "bridge_train": "darkroom.workers.bridge_train",
    "health": "darkroom.workers.health",
    "warmup": "darkroom.workers.warmup",
}


def recipe(job_type: str) -> Recipe:
    """The recipe of a job type that `jobs.parse` has let in, imported on first use."""
    return cast(Recipe, import_module(RECIPES[job_type]).RECIPE)
