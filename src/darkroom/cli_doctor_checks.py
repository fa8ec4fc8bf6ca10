"""The checks of `darkroom doctor`: each looks at one thing and says what it found and what to do."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Literal

from pydantic import ValidationError

from darkroom.errors import DarkroomError
from darkroom.settings import Settings

PACKAGES = ("torch", "diffusers", "transformers", "accelerate", "runpod", "boto3", "pillow")
GB = 10**9
REAL_MODEL_BYTES = 57.7e9
"""Transformer 40.9 + text encoder 16.6 + VAE 0.25 GB, in bf16."""
VISION_BYTES = 17.5e9
"""Qwen3-VL-8B in bf16, language model and all."""
LEAST_FREE_BYTES = 2e9
"""Results, queue and logs of a day of work with the pocket model."""


@dataclass(frozen=True)
class Finding:
    """One line of the table; `remedy` is empty where nothing is to be done."""

    check: str
    state: Literal["ok", "warn", "fail"]
    found: str
    remedy: str = ""


def examine(folder: Path) -> list[Finding]:
    """All checks, in the order in which one would fix things."""
    findings = [python(), *packages()]
    try:
        settings = Settings()
    except ValidationError as error:
        return [*findings, *wrong_settings(error)]
    if any(finding.check == "torch" and finding.state == "fail" for finding in findings):
        return [*findings, disk(folder, 0.0), store(settings)]
    return [*findings, *serving(settings, folder), store(settings), reading()]


def python() -> Finding:
    """3.11 and 3.12 are what the pinned packages are tested with."""
    found = ".".join(map(str, sys.version_info[:3]))
    good = (3, 11) <= sys.version_info[:2] <= (3, 12)
    return Finding("Python", "ok", found) if good else Finding("Python", "fail", found, "install 3.11 or 3.12")


def packages() -> Iterator[Finding]:
    """What a worker imports."""
    for name in PACKAGES:
        try:
            yield Finding(name, "ok", version(name))
        except PackageNotFoundError:
            yield Finding(name, "fail", "not installed", "make setup")


def wrong_settings(error: ValidationError) -> list[Finding]:
    """Each environment variable that makes no sense."""
    return [
        Finding("settings", "fail", fault["msg"], f"correct DARKROOM_{'_'.join(map(str, fault['loc'])).upper()}"
                if fault["loc"] else "correct the variables named")
        for fault in error.errors(include_url=False, include_input=False)
    ]


def serving(settings: Settings, folder: Path) -> list[Finding]:
    """Card, memory, disk and models of the profile in force."""
    from darkroom.models.shelf import read_card
    from darkroom.models.specs import resolve

    profile = resolve(settings, read_card())
    specs = {role: profile.models[role] for role in settings.preload if role in profile.models}
    models = [model(role, spec.repo, spec.revision, spec.from_text) for role, spec in specs.items()]
    missing = sum(found.found.startswith("not in the cache") for found in models)
    if "vision" in profile.models:
        models.append(vision(profile.models["vision"].repo, profile.models["vision"].revision))
    on_gpu = profile.device == "cuda"
    least_bytes = 3e9 if not on_gpu else 48e9 if profile.offload else 24e9
    return [
        card(profile.name, on_gpu=on_gpu, fp8=profile.precision == "fp8"),
        memory(profile.name, least_bytes),
        disk(folder, missing * REAL_MODEL_BYTES),
        *models,
    ]


def card(profile: str, *, on_gpu: bool, fp8: bool) -> Finding:
    """The card, and what it means for the profile, which needs a GPU or not, with FP8 or not."""
    import torch

    if torch.cuda.is_available():
        properties = torch.cuda.get_device_properties(0)
        name = (
            f"{properties.name}, {properties.total_memory / 2**30:.0f} GiB, sm_{properties.major}{properties.minor}, "
            f"CUDA {torch.version.cuda}"
        )
        if fp8 and (properties.major, properties.minor) < (8, 9):
            return Finding("GPU", "fail", f"{name}; profile {profile} needs FP8 (sm_89)",
                           "unset DARKROOM_PROFILE, or take an L4, L40S or H100")
        return Finding("GPU", "ok", f"{name}; profile {profile}")
    if on_gpu:
        return Finding("GPU", "fail", f"none, and profile {profile} needs one",
                       "install a CUDA build of torch and a driver, or set DARKROOM_PROFILE=pocket")
    return Finding("GPU", "warn", "none; the pocket model runs on the CPU",
                   "fine for trying and testing; real models need a GPU, see docs/deploy.md")


def memory(profile: str, least_bytes: float) -> Finding:
    """Main memory; weights of a real model pass through it on their way to the card."""
    if not hasattr(os, "sysconf"):
        return Finding("memory", "warn", "unknown on this system")
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    found = f"{total / 2**30:.1f} GiB"
    if total >= least_bytes:
        return Finding("memory", "ok", found)
    return Finding("memory", "warn", found, f"profile {profile} wants {least_bytes / 2**30:.0f} GiB")


def disk(folder: Path, needed_bytes: float) -> Finding:
    """Room for results, and for models that are still to be downloaded."""
    place = next(path for path in [folder.absolute(), *folder.absolute().parents] if path.exists())
    free, least = shutil.disk_usage(place).free, needed_bytes + LEAST_FREE_BYTES
    found = f"{free / GB:.0f} GB free"
    if free >= least:
        return Finding("disk", "ok", found)
    return Finding("disk", "fail", found, f"make {least / GB:.0f} GB free, or set HF_HOME to a larger disk")


def model(role: str, repo: str, revision: str | None, from_text: bool = False) -> Finding:
    """Is it there and whole? Nothing is downloaded."""
    from darkroom.models.shelf import editor_parts
    from darkroom.models.specs import ModelSpec
    from darkroom.models.weights import locate, size_bytes, verify

    check = f"model: {role}"
    if not Path(repo).is_dir() and not Path(repo).is_absolute():
        return _cached(check, repo, revision)
    try:
        spec = ModelSpec(repo, revision, from_text=from_text)
        folder = locate(spec, editor_parts(spec))
        verify(folder)
    except DarkroomError as error:
        return Finding(check, "fail", error.message, "git checkout the weights, or darkroom pocket train --install")
    return Finding(check, "ok", f"{folder.parent.name}/{folder.name}, {size_bytes(folder) / 1e6:.1f} MB")


def vision(repo: str, revision: str | None) -> Finding:
    """The model that a bridge sees with; only bridge and injection jobs need it. Nothing is downloaded."""
    from darkroom.models.specs import ModelSpec
    from darkroom.models.weights import locate, size_bytes

    check = "model: vision"
    if not Path(repo).is_dir() and not Path(repo).is_absolute():
        return _cached(check, repo, revision, "config.json", VISION_BYTES)
    try:
        folder = locate(ModelSpec(repo, revision), ())
    except DarkroomError as error:
        return Finding(check, "warn", error.message, "bridge and injection jobs need it: git checkout the weights")
    return Finding(check, "ok", f"{folder.parent.name}/{folder.name}, {size_bytes(folder) / 1e6:.1f} MB")


def reading() -> Finding:
    """Tesseract and what the texts of bridge_evaluate need beside it."""
    from darkroom.media import ocr
    from darkroom.workers.evaluation.battery import missing_for
    from darkroom.workers.evaluation.text import WORDS

    check, missing = "OCR", missing_for(WORDS)
    packages = dict.fromkeys(package for needed in missing.values() for package in needed)
    remedy = f"for bridge_evaluate's texts: apt-get install {' '.join(packages)}"
    if not ocr.available():
        return Finding(check, "warn", "no tesseract", remedy.replace("install ", f"install {ocr.PACKAGE} "))
    found = ", ".join(language for language in WORDS if language not in missing)
    if missing:
        return Finding(check, "warn", f"tesseract; reads {found or 'nothing'}", remedy)
    return Finding(check, "ok", f"tesseract; reads {found}")


def _cached(
    check: str, repo: str, revision: str | None, index: str = "model_index.json", whole: float = REAL_MODEL_BYTES
) -> Finding:
    from huggingface_hub import try_to_load_from_cache

    if isinstance(try_to_load_from_cache(repo, index, revision=revision), str):
        return Finding(check, "ok", f"{repo} is in the cache")
    return Finding(check, "warn", f"not in the cache: {repo}",
                   f"the first use downloads {whole / GB:.0f} GB; put HF_HOME on a network volume")


def store(settings: Settings) -> Finding:
    """A small file goes in and comes back."""
    from darkroom.storage import open_store

    place = settings.store if settings.store.startswith("s3://") else "folder"
    try:
        open_store(settings).check()
    except DarkroomError as error:
        return Finding("store", "fail", error.message, "correct DARKROOM_STORE and the BUCKET_ variables")
    return Finding("store", "ok", f"{place}: written and read back")
