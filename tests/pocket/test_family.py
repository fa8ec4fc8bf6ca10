"""The family is complete, of the real classes, reproducible and small."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from diffusers import QwenImageEditPlusPipeline
from diffusers.pipelines.qwenimage import pipeline_qwenimage_edit_plus as edit_plus
from PIL import Image
from typer.testing import CliRunner

from darkroom.cli_pocket import pocket
from darkroom.pocket import family
from darkroom.pocket.family import CONDITION_AREA, VAE_AREA, build
from darkroom.pocket.tokens import EDIT_PREFIX, SPECIAL_TOKENS, train_tokenizer

MEGABYTE = 10**6


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("pocket"), seed=3)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_the_same_seed_builds_the_same_bytes(folder: Path, tmp_path: Path) -> None:
    assert contents(build(tmp_path / "same", seed=3)) == contents(folder)
    assert contents(build(tmp_path / "other", seed=4)) != contents(folder)


def test_who_is_stopped_while_saving_leaves_the_folder_that_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved = tmp_path / "family"
    build(saved, seed=0)
    before = contents(saved)

    def stopped(config: Path) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as context:
        context.setattr(family, "declare_float32", stopped)
        with pytest.raises(KeyboardInterrupt):
            build(saved, seed=1)
    assert contents(saved) == before
    build(saved, seed=1)
    assert set(contents(saved)) == set(before)
    assert contents(saved) != before


def test_who_is_killed_between_two_moves_loses_no_family(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    saved = tmp_path / "family"
    build(saved, seed=0)
    before, move = contents(saved), Path.rename

    def stopped(path: Path, to: Path) -> Path:
        if path.name.endswith(".new"):
            raise KeyboardInterrupt
        return move(path, to)

    monkeypatch.setattr(Path, "rename", stopped)
    for _ in range(2):  # the second is stopped in the same place
        with pytest.raises(KeyboardInterrupt):
            build(saved, seed=1)
        assert contents(tmp_path / ".family.old") == before
    monkeypatch.undo()
    assert contents(build(saved, seed=1)) != before
    assert [path.name for path in tmp_path.iterdir()] == ["family"]


def test_a_folder_that_holds_something_else_is_named_and_left_as_it_was(tmp_path: Path) -> None:
    notes = tmp_path / "thesis" / "notes.txt"
    notes.parent.mkdir()
    notes.write_text("years of work")
    for place in (notes.parent, notes):
        answer = CliRunner().invoke(pocket, ["build", str(place)])
        assert answer.exit_code == 2
        assert f"{place} holds something else than a family" in answer.output
    assert notes.read_text() == "years of work"
    assert [path.name for path in tmp_path.iterdir()] == ["thesis"]


def test_building_leaves_the_callers_random_state_alone(tmp_path: Path) -> None:
    torch.manual_seed(11)
    expected = torch.rand(3)
    torch.manual_seed(11)
    build(tmp_path)
    assert torch.equal(torch.rand(3), expected)


def test_the_edit_template_has_qwens_64_prefix_tokens() -> None:
    assert len(train_tokenizer()(EDIT_PREFIX).input_ids) == 64


def test_special_tokens_follow_the_byte_pairs_in_qwens_order() -> None:
    tokenizer = train_tokenizer()
    ids = [tokenizer.convert_tokens_to_ids(token) for token in SPECIAL_TOKENS]
    assert ids == list(range(ids[0], ids[0] + len(SPECIAL_TOKENS)))
    assert ids[-1] == len(tokenizer) - 1


def test_any_text_survives_the_tokenizer() -> None:
    tokenizer = train_tokenizer()
    text = "Zwölf Boxkämpfer: 42 € 🎨\n\tquickly"
    assert tokenizer.decode(tokenizer(text).input_ids) == text


def test_files_and_parameters_stay_within_the_budget(folder: Path) -> None:
    sizes = [path.stat().st_size for path in folder.rglob("*") if path.is_file()]
    assert max(sizes) <= 15 * MEGABYTE
    assert sum(sizes) <= 100 * MEGABYTE
    pipeline = QwenImageEditPlusPipeline.from_pretrained(folder)
    assert sum(p.numel() for p in pipeline.transformer.parameters()) <= 8 * MEGABYTE


def test_diffusers_own_pipeline_loads_the_folder_in_float32_and_edits(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(edit_plus, "CONDITION_IMAGE_SIZE", CONDITION_AREA)
    monkeypatch.setattr(edit_plus, "VAE_IMAGE_SIZE", VAE_AREA)
    pipeline = QwenImageEditPlusPipeline.from_pretrained(folder)
    assert {pipeline.transformer.dtype, pipeline.text_encoder.dtype, pipeline.vae.dtype} == {torch.float32}
    pipeline.set_progress_bar_config(disable=True)

    def edit() -> bytes:
        generator = torch.Generator().manual_seed(5)
        source = Image.new("RGB", (128, 128), "navy")
        result = pipeline(
            image=[source],
            prompt="make it brighter",
            height=128,
            width=128,
            num_inference_steps=2,
            true_cfg_scale=1.0,
            generator=generator,
        )
        picture: Image.Image = result.images[0]
        assert picture.size == (128, 128)
        return picture.tobytes()

    assert edit() == edit()
