"""The step-distilled LoRA: its training, its file, and whether four steps with it end where they should."""

from __future__ import annotations

import copy
import json
import shutil
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler, QwenImageEditPlusPipeline
from typer.testing import CliRunner

from darkroom.bench import yardstick
from darkroom.cli_pocket import pocket
from darkroom.jobs import ImageEdit, Limits
from darkroom.media import to_uint8
from darkroom.models import generation, lora
from darkroom.models.editor import Editor
from darkroom.models.presets import POCKET
from darkroom.models.shelf import Shelf
from darkroom.models.specs import PROFILES
from darkroom.models.weights import sha256
from darkroom.pocket.evaluate import held_out as held_out_edit
from darkroom.pocket.judging.samples import load_editor, to_picture
from darkroom.pocket.shipped import EDIT, WEIGHTS, verify
from darkroom.pocket.stages.course import Course
from darkroom.pocket.stages.drawing import draw_set
from darkroom.pocket.stages.lean_transformer import prepare
from darkroom.pocket.stages.lesson import Lesson
from darkroom.pocket.stages.lightning_stage import HeldOut, LightningRecipe, distill, held_out, taught
from darkroom.pocket.stages.pairs import Pairs, encode_all
from darkroom.pocket.stages.walks import Batch
from darkroom.technique.sampling import sample
from darkroom.workers.pictures.asked import gather_loras
from darkroom.workers.recipe import Desk

FAST = POCKET["fast"]
RECIPE = LightningRecipe(steps=6, batch=2, substeps=2, rank=4, lr=1e-2, warmup=1)
# Nothing that trained the shipped LoRA was drawn from it.
UNSEEN = 900_002


@pytest.fixture(scope="module")
def pipeline() -> QwenImageEditPlusPipeline:
    return QwenImageEditPlusPipeline.from_pretrained(EDIT)


@pytest.fixture(scope="module")
def editor() -> Editor:
    return load_editor(EDIT)


@pytest.fixture(scope="module")
def sets(pipeline: QwenImageEditPlusPipeline) -> dict[str, Pairs]:
    return {name: encode_all(pipeline, draw_set(name, UNSEEN, 8)) for name in ("pairs", "captions")}


def trained(
    pipeline: QwenImageEditPlusPipeline, pairs: Pairs, recipe: LightningRecipe, checkpoint: Path, *stops: int
) -> tuple[dict[str, torch.Tensor], list[float], HeldOut]:
    """The LoRA's matrices after training that was stopped at `stops`; the last part's losses, where it ends."""
    lesson = Lesson.of(pairs, pipeline.tokenizer)
    learned, kept_out = ([lesson.part(rows)] for rows in (lesson.rows[:-3], lesson.rows[-3:]))
    for stop in stops:
        transformer = copy.deepcopy(pipeline.transformer)
        losses, ends = distill(
            transformer, pipeline.text_encoder, learned, kept_out, recipe, checkpoint, Course(), stop
        )
    return {name: value for name, value in transformer.state_dict().items() if "lora_" in name}, losses, ends[0]


def test_it_learns_and_resumes_to_the_same_weights(
    pipeline: QwenImageEditPlusPipeline, sets: dict[str, Pairs], tmp_path: Path
) -> None:
    # A world with another rule than that of the weights: every edit ends grey.
    pairs = replace(sets["pairs"], target=torch.zeros_like(sets["pairs"].target))
    whole, _, ends = trained(pipeline, pairs, RECIPE, tmp_path / "whole.pt", 6)
    halves, _, _ = trained(pipeline, pairs, RECIPE, tmp_path / "halves.pt", 3, 6)
    assert ends.worn < 0.9 * ends.without
    assert all(torch.equal(whole[name], halves[name]) for name in whole)


def test_who_takes_the_teachers_steps_without_cfg_has_nothing_to_learn(
    pipeline: QwenImageEditPlusPipeline, sets: dict[str, Pairs], tmp_path: Path
) -> None:
    alone = replace(RECIPE, substeps=1, true_cfg_scale=1.0, truth=False, steps=1)
    for name, pairs in sets.items():
        _, losses, _ = trained(pipeline, pairs, alone, tmp_path / f"{name}.pt", 1)
        assert losses == pytest.approx([0.0], abs=1e-10)


def test_levels_are_the_fast_presets_with_the_teachers_between_them(editor: Editor) -> None:
    recipe = LightningRecipe()
    levels = recipe.levels()
    own = torch.tensor([interval[0] for interval in levels] + levels[-1][-1:])
    assert (recipe.intervals, recipe.shift) == (FAST.steps, FAST.shift)
    assert torch.allclose(own, editor.sigmas(FAST.steps, 160, 96, FAST.shift))
    assert all(len(interval) == recipe.substeps + 1 for interval in levels)
    assert all(sigma > below for interval in levels for sigma, below in pairwise(interval))
    assert all(one[-1] == other[0] for one, other in pairwise(levels))


@torch.no_grad()
def test_the_teacher_is_guided_as_the_engine_guides(
    pipeline: QwenImageEditPlusPipeline, editor: Editor, sets: dict[str, Pairs]
) -> None:
    caption = next(iter(draw_set("captions", UNSEEN, 1))).instruction
    lesson = Lesson.of(sets["captions"], pipeline.tokenizer)
    batch = Batch(pipeline.text_encoder, lesson, torch.tensor([0]), lesson.asked(torch.tensor([0])))
    teacher = copy.deepcopy(pipeline.transformer)
    prepare(teacher)
    x = batch.noise(torch.Generator().manual_seed(1))
    engines = editor.denoiser(generation.condition(editor, [caption], " "), 128, 128, 3.0)(x, torch.tensor(0.75))
    # On CPUs with tiles for it bfloat16 beside float32.
    assert distance(taught(batch, teacher, LightningRecipe())(x, 0.75), engines.velocity) < 0.05
    assert distance(batch.walk(teacher)(x, 0.75), engines.velocity) > 0.1


def distance(one: torch.Tensor, other: torch.Tensor) -> float:
    return float((one - other).norm() / other.norm())


def test_the_shipped_file_is_whole_and_made_for_the_shipped_transformer() -> None:
    verify(WEIGHTS / "lightning")
    about = json.loads((WEIGHTS / "lightning" / "about.json").read_text())
    # Where this fails: `darkroom pocket train --part lightning --install`.
    assert about["base"] == sha256(EDIT / "transformer" / "diffusion_pytorch_model.safetensors")


def test_it_is_not_judged_on_a_family_that_it_was_not_made_for(family: Path, tmp_path: Path) -> None:
    command = ["evaluate", "--weights", str(family), "--preset", "fast", "--out", str(tmp_path / "out")]
    answer = CliRunner().invoke(pocket, command)
    assert answer.exit_code == 2
    assert f"was made for another transformer than that of {family}" in answer.output
    assert f"darkroom pocket train --part lightning --begin-with {family} --work out/lightning" in answer.output
    assert not (tmp_path / "out").exists()
    shutil.copytree(WEIGHTS / "lightning", tmp_path / "own")
    (tmp_path / "own" / lora.ABOUT).unlink()
    assert lora.made_for(tmp_path / "own") is None


def test_a_job_on_another_family_is_warned_of_it(family: Path) -> None:
    shipped = PROFILES["pocket"]
    job = ImageEdit(images=["https://example.com/a.png"], prompt="make it sepia", preset="fast")
    for repo, warned in ((EDIT, False), (family, True)):
        models = {**shipped.models, "edit": replace(shipped.models["edit"], repo=str(repo))}
        desk = Desk(Shelf(replace(shipped, models=models)), Limits())
        assert [worn.field for worn in gather_loras(job, FAST, desk)] == ["preset"]
        assert any("made for another transformer" in sentence for sentence in desk.warnings) == warned


@torch.no_grad()
def test_one_edit_with_the_shipped_file_is_diffusers_edit_with_it(editor: Editor) -> None:
    edit = held_out_edit("recolour", 0)
    picture = to_picture(edit.source)
    conditioning = editor.condition([edit.instruction], editor.reference([picture]))
    assert FAST.lora is not None
    with lora.worn(editor.transformer, [lora.of_preset(FAST.lora)]):
        steps = sample(editor.denoiser(conditioning, 128, 128), editor.noise([7], 128, 128),
                       editor.sigmas(FAST.steps, 128, 128, FAST.shift))  # fmt: skip
        ours = np.asarray(to_uint8(editor.decode([step.latents for step in steps][-1], 128, 128)[0]))
    yard = yardstick.pipeline_over(editor)
    yard.register_modules(
        scheduler=FlowMatchEulerDiscreteScheduler.from_config(
            yard.scheduler.config, base_shift=FAST.shift, max_shift=FAST.shift, shift_terminal=None
        )
    )
    settings = {"seed": 7, "steps": FAST.steps, "true_cfg_scale": 1.0, "size": (128, 128)}
    plain = yardstick.edit(yard, [picture], edit.instruction, **settings)
    yard.load_lora_weights(WEIGHTS / "lightning")
    try:
        theirs = yardstick.edit(yard, [picture], edit.instruction, **settings)
    finally:
        yard.unload_lora_weights()
    assert np.abs(ours.astype(int) - theirs.astype(int)).max() <= 1
    assert (theirs != plain).any()


def test_with_the_shipped_file_four_steps_end_nearer_to_what_is_right(
    pipeline: QwenImageEditPlusPipeline, sets: dict[str, Pairs]
) -> None:
    teacher, student = copy.deepcopy(pipeline.transformer), copy.deepcopy(pipeline.transformer)
    assert FAST.lora is not None
    with lora.worn(student, [lora.of_preset(FAST.lora)]):
        prepare(teacher)
        prepare(student)
        for pairs in sets.values():
            lesson = Lesson.of(pairs, pipeline.tokenizer)
            ends = held_out(student, teacher, pipeline.text_encoder, lesson, LightningRecipe())
            assert ends.worn < ends.without
