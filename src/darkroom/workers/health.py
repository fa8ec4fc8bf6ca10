"""`health`: the state of every model, memory and versions. Loads nothing."""

from __future__ import annotations

import platform
from importlib.metadata import version
from typing import Any

import torch

from darkroom import __version__
from darkroom.jobs import Health
from darkroom.workers.recipe import Desk, Recipe, Work

PACKAGES = ("runpod", "torch", "diffusers", "transformers", "accelerate", "peft", "pillow", "pydantic", "boto3")


def run(job: Health, desk: Desk) -> Work:
    """Answer at once, also while another job holds the models."""
    yield from ()
    return {"status": "ok", **desk.shelf.report(), "device": device(), "versions": versions()}


def device() -> dict[str, Any]:
    if not torch.cuda.is_available():
        return {"name": "cpu", "threads": torch.get_num_threads()}
    free, total = torch.cuda.mem_get_info()
    return {
        "name": torch.cuda.get_device_name(0),
        "total_gib": round(total / 2**30, 3),
        "free_gib": round(free / 2**30, 3),
        "peak_allocated_gib": round(torch.cuda.max_memory_allocated() / 2**30, 3),
    }


def versions() -> dict[str, str]:
    return {"darkroom": __version__, "python": platform.python_version(), **{name: version(name) for name in PACKAGES}}


RECIPE = Recipe(run, exclusive=False)
