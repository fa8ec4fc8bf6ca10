"""The README tells the truth about what can be looked up."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from darkroom.errors import DarkroomError
from darkroom.jobs import (
    BridgeCompare,
    BridgeEvaluate,
    BridgeTrain,
    Guidance,
    ImageEdit,
    InjectionSweep,
    InjectionTrain,
    VideoEdit,
)
from darkroom.models.slots import MARK
from darkroom.settings import Settings

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def names(field: str) -> str:
    """The variable that the README must list for a setting."""
    alias = Settings.model_fields[field].validation_alias
    choices = getattr(alias, "choices", [alias] if alias else [f"DARKROOM_{field.upper()}"])
    return str(choices[0])


@pytest.mark.parametrize("field", [f for f in Settings.model_fields if f != "runpod_post_output"])
def test_every_setting_is_listed(field: str) -> None:
    assert f"`{names(field)}`" in README


def test_every_listed_variable_exists() -> None:
    known = {names(field) for field in Settings.model_fields} | {"DARKROOM_ENDPOINT", "DARKROOM_API_KEY"}
    assert set(re.findall(r"`(DARKROOM_[A-Z_]+)[`=]", README)) <= known


@pytest.mark.parametrize("field", list(ImageEdit.model_fields))
def test_every_field_of_image_edit_is_shown(field: str) -> None:
    assert f'"{field}"' in README


@pytest.mark.parametrize("field", [*VideoEdit.model_fields, *Guidance.model_fields])
def test_every_field_of_video_edit_is_shown(field: str) -> None:
    assert f'"{field}"' in README


@pytest.mark.parametrize("field", [*InjectionSweep.model_fields, *InjectionTrain.model_fields])
def test_every_field_of_the_injection_jobs_is_shown(field: str) -> None:
    assert f'"{field}"' in README


BRIDGE_JOBS = (BridgeCompare, BridgeEvaluate, BridgeTrain)


@pytest.mark.parametrize("field", [field for job in BRIDGE_JOBS for field in job.model_fields])
def test_every_field_of_the_bridge_jobs_is_shown(field: str) -> None:
    assert f'"{field}"' in README


@pytest.mark.parametrize("page", ["README.md", "docs/injection.md"])
def test_a_sweep_is_shown_with_a_prompt_that_begins_as_its_trainings(page: str) -> None:
    """Up to the slots, as docs/injection.md asks of them."""
    prompts = re.findall(r'base[-_]prompt"?:? "([^"]*)"', (ROOT / page).read_text())
    assert len(prompts) >= 2
    assert len({prompt.partition(MARK)[0] for prompt in prompts if MARK in prompt}) == 1
    assert all(MARK in prompt for prompt in prompts)


def codes(kind: type[DarkroomError]) -> set[str]:
    return {sub.code for sub in kind.__subclasses__()} | {c for sub in kind.__subclasses__() for c in codes(sub)}


def test_every_error_code_is_listed() -> None:
    assert all(code in README for code in codes(DarkroomError))


def test_nothing_is_left_to_fill_in() -> None:
    assert "{{" not in README


def test_every_link_leads_somewhere() -> None:
    for page in [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")]:
        for target in re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name}: {target}"
