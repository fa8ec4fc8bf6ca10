"""What the training in a folder was begun with: going on with something else would mix two schedules in one model."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from darkroom.pocket.recipes import Recipe
from darkroom.pocket.stages.checkpoint import load_note, save_note
from darkroom.pocket.stages.path_stage import PathRecipe

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
# What earlier folders do not note: there it was so.
_ALWAYS_WAS: Mapping[str, Mapping[str, Any]] = {"edit": {"flow.train_text": True, "path.open": []}}
# A last stage that earlier folders do not know: it goes on from what they hold, with whatever settings.
_LATER = {"edit": "path."}


class OtherRecipe(ValueError):
    """A folder's training was begun with other settings."""


def settings_of(part: str, recipe: Recipe) -> dict[str, Any]:
    """By dotted name, the settings of `recipe` that `part`'s weights follow from."""
    whole = asdict(recipe)
    return dict(_flat({name: whole[name] for name in _FIELDS[part]}))


def as_begun(work: Path, recipe: Recipe) -> Recipe:
    """`recipe` as the training in `work` was begun: before `path.open` existed every edit was walked, and still is.

    Only its default gives way; where others were asked for, `keep_to` refuses them.
    """
    noted = _noted(work).get("edit", {})
    older = "path.steps" in noted and "path.open" not in noted
    if not older or recipe.path.open != PathRecipe().open:
        return recipe
    return replace(recipe, path=replace(recipe.path, open=()))


def keep_to(work: Path, part: str, settings: Mapping[str, Any]) -> None:
    """`keep_all` for one part."""
    keep_all(work, {part: settings})


def keep_all(work: Path, wanted: Mapping[str, Mapping[str, Any]]) -> None:
    """Note in `work` what parts are trained with, where that is not noted yet, or not of a stage that came later.

    Raises OtherRecipe, which says what differs, where one was begun with something else; then nothing is noted.
    """
    noted = _noted(work)
    kept = {part: _kept(work / BEGUN, noted, part, settings) for part, settings in wanted.items()}
    if any(noted.get(part) != settings for part, settings in kept.items()):
        save_note(work / BEGUN, {**noted, **kept})


def _kept(path: Path, noted: Mapping[str, dict[str, Any]], part: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    """What `path` is to say of `part`.

    A setting that an older folder does not note stays unnoted: that tells `as_begun` its age.
    """
    wanted: dict[str, Any] = json.loads(json.dumps(settings))
    already = noted.get(part, wanted)
    later = _LATER.get(part)
    if later and not any(name.startswith(later) for name in already):
        already = already | {name: value for name, value in wanted.items() if name.startswith(later)}
    begun = {**_ALWAYS_WAS.get(part, {}), **already} if part in noted else wanted
    if differing := [name for name in {**begun, **wanted} if begun.get(name) != wanted.get(name)]:
        told = ", ".join(f"{name} {_said(begun, name)}, not {_said(wanted, name)}" for name in differing)
        raise OtherRecipe(
            f"{path}: {part} was begun with {told}; go on with the same --recipe, which the device chooses"
            " where none is named, and the same other options, or take another --work"
        )
    return already


def _noted(work: Path) -> dict[str, dict[str, Any]]:
    return load_note(work / BEGUN) or {}


def _said(settings: Mapping[str, Any], name: str) -> str:
    return json.dumps(settings[name]) if settings.get(name) is not None else "nothing"


def _flat(settings: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in settings.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        elif name not in _OPEN:
            yield f"{prefix}{name}", value
