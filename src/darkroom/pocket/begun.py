"""What the training in a folder was begun with: going on with something else would mix two schedules in one model."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from darkroom.pocket.recipes import Recipe
from darkroom.pocket.stages.checkpoint import load_note, save_note

BEGUN = "recipe.json"
# The fields of a recipe that each part's weights follow from.
_FIELDS = {
    "edit": ("vae", "decoder", "sight", "flow", "path", "shards", "times", "seed"),
    "lightning": ("lightning", "seed"),
    "qwen3vl": ("qwen3vl", "seed"),
    "bridge": ("bridge",),
    "perceptual": ("perceptual",),
    "identity": ("identity",),
}
# How a stage computes, not what.
_OPEN = ("compiled",)


class OtherRecipe(ValueError):
    """A folder's training was begun with other settings."""


def settings_of(part: str, recipe: Recipe) -> dict[str, Any]:
    """By dotted name, the settings of `recipe` that `part`'s weights follow from."""
    whole = asdict(recipe)
    return dict(_flat({name: whole[name] for name in _FIELDS[part]}))


def keep_to(work: Path, part: str, settings: Mapping[str, Any]) -> None:
    """`keep_all` for one part."""
    keep_all(work, {part: settings})


def keep_all(work: Path, wanted: Mapping[str, Mapping[str, Any]]) -> None:
    """Note in `work` what parts are trained with, where that is not noted yet.

    Raises OtherRecipe, which says what differs, where one was begun with something else; then nothing is noted.
    """
    noted: dict[str, dict[str, Any]] = load_note(work / BEGUN) or {}
    asked: dict[str, dict[str, Any]] = json.loads(json.dumps(wanted))
    for part, settings in asked.items():
        _check(work / BEGUN, part, noted.get(part, settings), settings)
    if not asked.keys() <= noted.keys():
        save_note(work / BEGUN, {**noted, **asked})


def _check(path: Path, part: str, begun: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    if differing := [name for name in {**begun, **wanted} if begun.get(name) != wanted.get(name)]:
        told = ", ".join(f"{name} {_said(begun, name)}, not {_said(wanted, name)}" for name in differing)
        raise OtherRecipe(
            f"{path}: {part} was begun with {told}; go on with the same --recipe, which the device chooses"
            " where none is named, and the same other options, or take another --work"
        )


def _said(settings: Mapping[str, Any], name: str) -> str:
    return json.dumps(settings[name]) if settings.get(name) is not None else "nothing"


def _flat(settings: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in settings.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        elif name not in _OPEN:
            yield f"{prefix}{name}", value
