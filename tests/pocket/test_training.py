"""Every stage learns, and a stage that was stopped ends where an undisturbed one ends."""

from __future__ import annotations

import json
import math
import os
import re
import shlex
import shutil
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import QwenImageEditPlusPipeline
from safetensors.torch import load_file
from torch import Tensor
from transformers import Qwen2_5_VLForConditionalGeneration as TextEncoder
from typer.testing import CliRunner

from darkroom.cli_pocket import pocket
from darkroom.pocket import training
from darkroom.pocket.bar import stage_bar
from darkroom.pocket.begun import BEGUN, OtherRecipe, keep_to, settings_of
from darkroom.pocket.evaluate import PORTRAIT
from darkroom.pocket.family import assemble, build, save
from darkroom.pocket.family_training import export, family_of, train_family
from darkroom.pocket.finished import finished, tell
from darkroom.pocket.parts import PARTS, train_parts
from darkroom.pocket.recipes import RECIPES
from darkroom.pocket.shipped import EDIT, WEIGHTS, install
from darkroom.pocket.stages import encoders, flow_stage, path_stage, readings
from darkroom.pocket.stages.averaging import Average
from darkroom.pocket.stages.course import Course, OutOfTime
from darkroom.pocket.stages.drawing import SETS, TEACHES, draw_set
from darkroom.pocket.stages.flow_loss import flow_loss, noise_levels
from darkroom.pocket.stages.flow_stage import FlowRecipe, train_flow
from darkroom.pocket.stages.free_cores import FreeCores, beside_others
from darkroom.pocket.stages.lesson import Lesson
from darkroom.pocket.stages.muon import orthogonal
from darkroom.pocket.stages.named_words import ANSWERS, UNNAMED, named_words
from darkroom.pocket.stages.pairs import (
    UNKNOWN,
    Pairs,
    draw_rendered,
    encode_all,
    encoders_digest,
    load_or_make,
    named_cells,
    prompt_ids,
    written_cells,
)
from darkroom.pocket.stages.path_stage import PathRecipe, train_path
from darkroom.pocket.stages.readings import Hearer, Namer, Pointer, hearing_loss, naming_loss
from darkroom.pocket.stages.schedule import ramp, trapezoid, warm_then_linear
from darkroom.pocket.stages.sight_stage import SightRecipe, train_sight
from darkroom.pocket.stages.transformer_start import start_transformer
from darkroom.pocket.stages.truth import NO_LETTER, NO_SHAPE
from darkroom.pocket.stages.vae_stage import VaeRecipe, polish_decoder, train_vae
from darkroom.pocket.stages.walks import Batch
from darkroom.pocket.tokens import train_tokenizer
from darkroom.pocket.training import choose_recipe, train_and_tell, with_settings
from darkroom.pocket.world.lettering import LETTERS
from darkroom.pocket.world.shapes import SHAPES
from darkroom.technique.schedule import Schedule

VAE = VaeRecipe(steps=10, batch=4, crop=32, pool=2, photos=0.0, compiled=False)
FLOW = FlowRecipe(steps=4, batch=8, warmup=2, compiled=False)


def told(*arguments: str) -> str:
    """What `darkroom pocket train` says where it refuses."""
    answer = CliRunner().invoke(pocket, ["train", *arguments])
    assert answer.exit_code == 2, answer.output
    return " ".join(re.sub("[│╭╮╰╯─]", " ", answer.output).split())


def family() -> QwenImageEditPlusPipeline:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return assemble()


@pytest.fixture(scope="module")
def pairs() -> Pairs:
    """A world with one rule, the negative, in which a transformer that starts as a copyist must be wrong."""
    generator = torch.Generator().manual_seed(0)
    source = torch.randn(16, 64, 64, generator=generator).half()
    prompt = prompt_ids(train_tokenizer(), "invert it")
    return Pairs(
        source=source,
        target=-source,
        changed=torch.ones(16, 64),
        seen=torch.randn(16, 16, 128, generator=generator).half(),
        named=torch.full((16, 64), UNKNOWN, dtype=torch.int8),
        written=torch.full((16, 64), UNKNOWN, dtype=torch.int8),
        prompts=[prompt] * 16,
        kinds=["inverted"] * 16,
    )


def test_the_vae_learns_and_resumes_to_the_same_weights(tmp_path: Path) -> None:
    whole, halves = family().vae, family().vae
    losses = train_vae(whole, VAE, tmp_path / "whole.pt", Course(every=5))
    assert sum(losses[-4:]) < 0.8 * sum(losses[:4])
    train_vae(halves, VAE, tmp_path / "halves.pt", Course(), until_step=5)
    train_vae(halves, VAE, tmp_path / "halves.pt", Course())
    assert all(torch.equal(one, other) for one, other in zip(whole.parameters(), halves.parameters(), strict=True))
    assert whole.config.latents_std == halves.config.latents_std != [1.0] * 16


def test_the_decoder_learns_alone(tmp_path: Path) -> None:
    vae, picture = family().vae, torch.rand(1, 3, 1, 32, 32, generator=torch.Generator().manual_seed(0))

    def latents() -> Tensor:
        with torch.no_grad():
            return torch.as_tensor(vae.encode(picture).latent_dist.mean)

    before = latents()
    losses = polish_decoder(vae, replace(VAE, pool=8), tmp_path / "decoder.pt", Course())
    assert sum(losses[-4:]) < 0.9 * sum(losses[:4])
    torch.testing.assert_close(latents(), before, rtol=1e-5, atol=1e-6)


def test_sight_learns(tmp_path: Path) -> None:
    pipeline = family()
    recipe = SightRecipe(steps=30, batch=8)
    losses = train_sight(pipeline.text_encoder, pipeline.processor, recipe, tmp_path / "sight.pt", Course())
    assert sum(losses[-5:]) < 0.9 * sum(losses[:5])


def test_walking_its_own_path_it_learns_and_resumes_to_the_same_weights(tmp_path: Path, pairs: Pairs) -> None:
    recipe = PathRecipe(steps=10, batch=4, counts=(3,), learns=3, matrix_lr=0.02, vector_lr=2e-3, warmup=1)
    bare = {name: getattr(pairs, name)[:, :0] for name in ("source", "seen", "named")}
    drawn = replace(pairs, **bare, prompts=[prompt_ids(train_tokenizer(), "a portrait", ())] * len(pairs))

    def run(name: str, sets: list[Pairs], *stops: int) -> tuple[QwenImageEditPlusPipeline, list[float]]:
        pipeline = family()
        start_transformer(pipeline.transformer)
        losses: list[float] = []
        for stop in stops:
            losses += train_path(
                pipeline.transformer,
                pipeline.text_encoder,
                [Lesson.of(pairs, pipeline.tokenizer) for pairs in sets],
                Schedule(shift_terminal=0.02),
                recipe,
                replace(FLOW, blank=0.0),
                tmp_path / name,
                Course(),
                until_step=stop,
            )
        return pipeline, losses

    begun = family()
    whole, losses = run("whole.pt", [pairs], 10)
    halves, _ = run("halves.pt", [pairs], 4, 10)
    assert losses[-1] < 0.6 * losses[0]
    assert all(map(torch.equal, whole.transformer.parameters(), halves.transformer.parameters()))
    assert all(map(torch.equal, whole.text_encoder.parameters(), begun.text_encoder.parameters()))
    # Pictures from words alone are not walked.
    _, losses = run("drawn.pt", [drawn], 10)
    assert np.mean(losses[-3:]) < np.mean(losses[:3])


def test_edits_that_leave_a_choice_are_not_walked(
    tmp_path: Path, pairs: Pairs, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipeline, mixed, seen = family(), replace(pairs, kinds=["add", "inverted"] * 8), set[tuple[str, int]]()

    class Noted(Batch):
        def __init__(self, text_encoder: Any, lesson: Lesson, chosen: Tensor, *rest: Any) -> None:
            seen.update((lesson.pairs.kinds[row], len(chosen)) for row in chosen.tolist())
            super().__init__(text_encoder, lesson, chosen, *rest)

    monkeypatch.setattr(path_stage, "Batch", Noted)
    recipe = PathRecipe(steps=8, batch=2, counts=(2,), learns=1, open=("add",))
    models = (pipeline.transformer, pipeline.text_encoder)
    still = replace(FLOW, blank=0.0)
    lesson = Lesson.of(mixed, pipeline.tokenizer)
    train_path(*models, [lesson], Schedule(), recipe, still, tmp_path / "path.pt", Course())
    assert seen == {("add", 8), ("inverted", 2)}


def test_flow_learns_and_resumes_to_the_same_weights(tmp_path: Path, pairs: Pairs) -> None:
    def run(name: str, *stops: int) -> tuple[QwenImageEditPlusPipeline, list[float]]:
        pipeline = family()
        start_transformer(pipeline.transformer)
        losses: list[float] = []
        for stop in stops:
            losses += train_flow(
                pipeline.transformer,
                pipeline.text_encoder,
                [Lesson.of(pairs, pipeline.tokenizer)],
                FLOW,
                tmp_path / name,
                Course(),
                until_step=stop,
            )
        return pipeline, losses

    whole, losses = run("whole.pt", 4)
    halves, _ = run("halves.pt", 2, 4)
    assert losses[-1] < losses[0]
    for one, other in (
        (whole.transformer, halves.transformer),
        (whole.text_encoder, halves.text_encoder),
    ):
        assert all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))


def test_a_text_encoder_that_is_held_still_stays_bit_for_bit_and_the_run_resumes(tmp_path: Path, pairs: Pairs) -> None:
    recipe = replace(FLOW, train_text=False)

    def run(name: str, *stops: int) -> QwenImageEditPlusPipeline:
        pipeline = family()
        start_transformer(pipeline.transformer)
        trained = (pipeline.transformer, pipeline.text_encoder, [Lesson.of(pairs, pipeline.tokenizer)])
        for stop in stops:
            train_flow(*trained, recipe, tmp_path / name, Course(), until_step=stop)
        return pipeline

    def equal(one: torch.nn.Module, other: torch.nn.Module) -> bool:
        return all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))

    whole, halves, begun = run("whole.pt", 4), run("halves.pt", 2, 4), run("none.pt")
    assert equal(whole.text_encoder, begun.text_encoder)
    assert not equal(whole.transformer, begun.transformer)
    assert equal(whole.transformer, halves.transformer)
    assert not any(parameter.requires_grad for parameter in whole.text_encoder.parameters())


def test_flow_takes_batches_of_several_sizes_and_numbers_of_references(tmp_path: Path, pairs: Pairs) -> None:
    pipeline = family()
    start_transformer(pipeline.transformer)
    wide = replace(
        pairs,
        source=torch.randn(16, 3 * 60, 64).half(),
        target=torch.randn(16, 60, 64).half(),
        changed=torch.ones(16, 60),
        seen=torch.randn(16, 3 * 15, 128).half(),
        named=torch.full((16, 3 * 60), UNKNOWN, dtype=torch.int8),
        written=torch.full((16, 60), UNKNOWN, dtype=torch.int8),
        prompts=[prompt_ids(pipeline.tokenizer, "follow the edges", [(3, 5)] * 3)] * 16,
        kinds=["follow"] * 16,
        grid=(6, 10),
    )
    assert wide.references == 3
    words = encode_all(pipeline, draw_set("captions", 1, 16))
    assert (words.references, words.source.shape, words.seen.shape) == (0, (16, 0, 64), (16, 0, 128))
    lessons = [Lesson.of(each, pipeline.tokenizer) for each in (pairs, wide, words)]
    losses = train_flow(
        pipeline.transformer, pipeline.text_encoder, lessons, FLOW, tmp_path / "f.pt", Course(), until_step=4
    )
    assert len(losses) == 4
    # A step costs about the same, and is never empty.
    assert [lesson.size(8) for lesson in lessons] == [8, 4, 16]
    assert [lesson.size(1) for lesson in lessons] == [1, 1, 2]


def test_the_pointer_learns_which_cells_change() -> None:
    torch.manual_seed(0)
    changed = (torch.rand(32, 64) < 0.3).float()
    cells = torch.randn(32, 128, 8)
    cells[..., 0] = 8 * changed.repeat(1, 2) - 4
    pointer = Pointer(8)
    optimizer = torch.optim.Adam(pointer.parameters(), lr=0.1)
    for _ in range(60):
        pointed = pointer(cells, 64)
        loss = torch.nn.functional.binary_cross_entropy_with_logits(pointed, changed[:, None].expand_as(pointed))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert ((pointed > 0).float() == changed[:, None]).float().mean() > 0.95


def test_the_namer_learns_what_cells_show_and_asks_nothing_of_unknown_ones() -> None:
    torch.manual_seed(0)
    named = torch.randint(0, NO_SHAPE + 1, (8, 64))
    cells = torch.nn.functional.one_hot(named, 16).float()
    namer = Namer(16, NO_SHAPE + 1)
    optimizer = torch.optim.Adam(namer.parameters(), lr=0.1)
    for _ in range(60):
        loss = naming_loss(namer(cells), named, NO_SHAPE)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert (namer(cells).argmax(dim=-1) == named).float().mean() > 0.95
    assert naming_loss(namer(cells), torch.full_like(named, UNKNOWN), NO_SHAPE) == 0


@pytest.mark.parametrize(
    ("instruction", "named"),
    [
        ("Paint the star blue.", ("star", None, "blue", None)),
        ("turn the ring into a cross", ("ring", "cross", None, None)),
        ("turn the cross into a ring", ("cross", "ring", None, None)),
        ("shift the square to the left", ("square", None, None, "left")),
        ("add an orange circle", ("circle", None, "orange", None)),
        # What is to be written names nothing.
        ('write "STAR RED UP"', (None, None, None, None)),
        ("make it brighter", (None, None, None, None)),
        # A tone, and two colours in none.
        ("Turn it black and white.", (None, None, None, None)),
        ("change the background to black", (None, None, "black", None)),
    ],
)
def test_what_words_name_is_told_in_the_order_of_speaking(instruction: str, named: tuple[str | None, ...]) -> None:
    told = [
        None if number == UNNAMED else names[number]
        for names, number in zip(ANSWERS.values(), named_words(instruction), strict=True)
    ]
    assert tuple(told) == named


def test_a_lesson_knows_what_its_prompts_name() -> None:
    pipeline = family()
    for name in ("pairs", "follows", "captions", "words"):
        examples = list(draw_set(name, 1, 4))
        lesson = Lesson.of(encode_all(pipeline, examples), pipeline.tokenizer)
        named = [named_words(example.instruction).tolist() for example in examples]
        assert lesson.heard.tolist() == lesson.part([0]).heard.tolist() == named
        shapes = [any(shape in example.instruction for shape in SHAPES) for example in examples]
        assert lesson.naming_shapes == shapes
        assert any(shapes) == (name == "pairs")


def test_the_hearer_learns_what_words_name() -> None:
    torch.manual_seed(0)
    heard = torch.stack([torch.randint(UNNAMED, len(names), (24,)) for names in ANSWERS.values()], dim=1)
    cells = torch.randn(24, 1, 96).expand(24, 8, 96)
    hearer = Hearer(96)
    optimizer = torch.optim.Adam(hearer.parameters(), lr=0.1)
    for _ in range(60):
        answers = hearer(cells)
        loss = hearing_loss(answers, heard)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    for logits, right in zip(answers, heard.T, strict=True):
        assert (logits.argmax(dim=-1) == right[:, None])[right != UNNAMED].all()
    assert hearing_loss(answers, torch.full_like(heard, UNNAMED)) == 0


def test_edits_are_only_read_at_first(tmp_path: Path) -> None:
    whole, halves = family(), family()
    recipe = replace(FLOW, steps=40, reading=20, velocity_from=0.0, velocity_warmup=0)
    lessons = [Lesson.of(encode_all(whole, draw_set(name, 1, 4)), whole.tokenizer) for name in ("pairs", "captions")]
    for pipeline in (whole, halves):
        start_transformer(pipeline.transformer)
    begun = {name: value.clone() for name, value in whole.transformer.state_dict().items()}
    said = {name: value.clone() for name, value in whole.text_encoder.state_dict().items()}

    def go_on(pipeline: QwenImageEditPlusPipeline, file: str, until: int) -> list[float]:
        models = (pipeline.transformer, pipeline.text_encoder)
        return train_flow(*models, lessons, recipe, tmp_path / file, Course(), until_step=until)

    def learned(name: str) -> bool:
        return not torch.equal(whole.transformer.state_dict()[name], begun[name])

    read = go_on(whole, "whole.pt", 20)
    assert sum(read[-4:]) < 0.8 * sum(read[:4])
    assert learned("transformer_blocks.2.img_mlp.net.2.weight")
    assert not torch.equal(
        whole.text_encoder.state_dict()["model.language_model.layers.0.mlp.up_proj.weight"],
        said["model.language_model.layers.0.mlp.up_proj.weight"],
    )
    # What only the velocity teaches.
    last = ("proj_out.weight", "transformer_blocks.4.img_mlp.net.2.weight")
    assert not any(map(learned, last))
    go_on(whole, "whole.pt", 24)
    assert all(map(learned, last))
    # A stop in between changes nothing.
    for until in (7, 24):
        go_on(halves, "halves.pt", until)
    for one, other in zip(whole.transformer.parameters(), halves.transformer.parameters(), strict=True):
        assert torch.equal(one, other)


def test_the_velocitys_weight_rises_after_reading() -> None:
    weights = [ramp(step, first=2, warmup=3, start=0.1) for step in range(8)]
    assert weights == pytest.approx([0.1, 0.1, 0.325, 0.55, 0.775, 1.0, 1.0, 1.0])
    assert [ramp(step, first=2, warmup=0, start=0.0) for step in range(4)] == [0, 0, 1, 1]


def test_the_velocity_comes_in_beside_what_is_read(tmp_path: Path, pairs: Pairs) -> None:
    pipeline = family()
    start_transformer(pipeline.transformer)
    shapes = Lesson.of(encode_all(pipeline, draw_set("pairs", 1, 8)), pipeline.tokenizer)
    toned = Lesson.of(pairs, pipeline.tokenizer)
    # So small rates leave the models as they are: the losses of two runs differ by their weights alone.
    still = replace(FLOW, batch=2, matrix_lr=1e-12, vector_lr=1e-12, embedding_lr=1e-12)
    unread = {"naming": 0.0, "hearing": 0.0, "pointing": 0.0, "spelling": 0.0}

    def losses(lesson: Lesson, stops: Sequence[int] = (8,), **settings: Any) -> Tensor:
        recipe = replace(still, **{"steps": 8, "reading": 2, "velocity_warmup": 3, **settings})
        models, file = (pipeline.transformer, pipeline.text_encoder), tmp_path / f"{len(list(tmp_path.iterdir()))}.pt"
        parts = [train_flow(*models, [lesson], recipe, file, Course(), until_step=stop) for stop in stops]
        return torch.tensor([loss for part in parts for loss in part])

    def close(one: Tensor, other: Tensor) -> None:
        torch.testing.assert_close(one, other, atol=0, rtol=1e-3)

    full = losses(shapes, velocity_from=1.0, **unread)
    weights = torch.tensor([0.1, 0.1, 0.325, 0.55, 0.775, 1.0, 1.0, 1.0])
    close(losses(shapes, **unread), weights * full)
    # A stop in between changes nothing.
    close(losses(shapes, stops=(1, 4, 8), **unread), weights * full)
    # Half of a run is left to edit, and half of that has the velocity's whole weight, however short it is.
    full = losses(shapes, reading=400, velocity_from=1.0, **unread)
    short = losses(shapes, reading=400, velocity_warmup=800, **unread)
    close(short, torch.tensor([0.1, 0.1, 0.1, 0.1, 0.4, 0.7, 1.0, 1.0]) * full)
    # What is read keeps its weight.
    read, some, both = (losses(shapes, stops=(2,), velocity_from=weight) for weight in (0.0, 0.1, 1.0))
    assert read.min() > 0
    close(some, read + 0.1 * (both - read))
    # Where nothing is read first, the velocity counts from the first step on.
    close(losses(shapes, stops=(2,), reading=0), losses(shapes, stops=(2,), reading=0, velocity_from=1.0))
    close(losses(toned, stops=(2,)), losses(toned, stops=(2,), velocity_from=1.0))


def test_what_words_name_is_asked_where_there_are_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[float] = []

    def noted(answers: Any, heard: Tensor) -> Tensor:
        loss = hearing_loss(answers, heard)
        told.append(float(loss.detach()))
        return loss

    monkeypatch.setattr(readings, "hearing_loss", noted)
    pipeline = family()
    start_transformer(pipeline.transformer)
    lesson = Lesson.of(encode_all(pipeline, draw_set("pairs", 1, 8)), pipeline.tokenizer)
    turns = lesson.part([row for row in lesson.rows if lesson.pairs.kinds[row] == "recolour"])
    models, still = (pipeline.transformer, pipeline.text_encoder), replace(FLOW, blank=0.0, naming=0.0, pointing=0.0)
    losses = {}
    for weight in (0.0, 2.0):
        recipe = replace(still, spelling=0.0, hearing=weight, reading=2, velocity_from=0.0)
        losses[weight] = train_flow(*models, [turns], recipe, tmp_path / f"{weight}.pt", Course(), until_step=1)
    # At first every answer is as likely as any other: a shape and a colour are named.
    known = math.log(len(ANSWERS["shape"])) + math.log(len(ANSWERS["colour"]))
    assert told == [pytest.approx(known, abs=1e-4)] * 2
    assert losses == {0.0: [0.0], 2.0: [pytest.approx(2 * known, abs=1e-3)]}
    train_flow(*models, [turns], replace(still, blank=1.0), tmp_path / "blank.pt", Course(), until_step=1)
    assert len(told) == 2


def test_cells_are_named_after_the_source_also_on_the_way_back() -> None:
    for name in ("pairs", "dots", "wide"):
        for example in draw_set(name, 3, 12):
            named = named_cells(example)
            rows, columns = (side // 16 for side in example.target.shape[:2])
            assert named.shape == (len(example.sources) * rows * columns,)
            if example.items is None:
                assert (named == UNKNOWN).all()
                continue
            # The shape that the instruction names stands in the source.
            asked = [shape for shape in SHAPES if f"the {shape}" in example.instruction.lower()]
            assert {SHAPES[number] for number in named.tolist() if number < NO_SHAPE} >= set(asked)


def test_cells_know_the_letters_that_are_written_in_them() -> None:
    for example in draw_set("words", 3, 24):
        lettering, written = example.lettering, written_cells(example)
        assert lettering is not None
        letters = [LETTERS[number] for number in written.view(8, 8).T.flatten().tolist() if number < NO_LETTER]
        assert "".join(letters) == "".join(2 * letter for letter in lettering.word)
        # All of the ink lies in these cells.
        ink = torch.from_numpy(lettering.mask(128, 128)).view(8, 16, 8, 16).sum(dim=(1, 3)).flatten()
        assert ink[written == NO_LETTER].sum() < 0.01 * ink.sum()
    assert all((written_cells(example) == UNKNOWN).all() for example in draw_set("pairs", 3, 4))


def test_few_kinds_are_taught_alone_at_first(tmp_path: Path, pairs: Pairs, monkeypatch: pytest.MonkeyPatch) -> None:
    mixed = replace(pairs, kinds=["inverted", "turn"] * 8)
    seen: list[set[str]] = []

    class Noted(Batch):
        def __init__(self, text_encoder: Any, lesson: Lesson, chosen: Tensor, *rest: Any) -> None:
            seen.append({lesson.pairs.kinds[row] for row in chosen.tolist()})
            super().__init__(text_encoder, lesson, chosen, *rest)

    monkeypatch.setattr(flow_stage, "Batch", Noted)

    def kinds_of(first: tuple[str, ...], *stops: int, reading: int = 0) -> list[set[str]]:
        seen.clear()
        pipeline = family()
        models = (pipeline.transformer, pipeline.text_encoder)
        lesson = Lesson.of(mixed, pipeline.tokenizer)
        recipe = replace(FLOW, batch=16, alone=0.5, first=first, reading=reading)
        file = tmp_path / f"{first[0]}_{len(stops)}_{reading}.pt"
        for stop in stops:
            train_flow(*models, [lesson], recipe, file, Course(), until_step=stop)
        return list(seen)

    both = {"inverted", "turn"}
    assert kinds_of(("inverted",), 4) == [{"inverted"}] * 2 + [both] * 2
    # A stop in between changes nothing.
    assert kinds_of(("inverted",), 1, 3, 4) == [{"inverted"}] * 2 + [both] * 2
    # Where no words name a shape nothing is read before that.
    assert kinds_of(("inverted",), 4, reading=2) == [{"inverted"}] * 2 + [both] * 2
    # Where none of them is among the examples, all are taught.
    assert kinds_of(("sepia",), 4) == [both] * 4
    # What names a shape is read, the rest comes after it.
    prompts = [prompt_ids(train_tokenizer(), words) for words in ("invert it", "turn the ring into a cross")]
    mixed = replace(mixed, prompts=prompts * 8)
    assert kinds_of(("inverted",), 4, reading=1) == [{"turn"}, {"inverted"}, {"inverted"}, {"turn"}]
    # Half of a run is left to edit, however short it is.
    assert kinds_of(("inverted",), 4, reading=400) == [{"turn"}, {"turn"}, {"inverted"}, {"turn"}]


def test_what_a_word_is_spelled_by_is_asked_of_words_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[tuple[int, float]] = []

    def noted(logits: Tensor, named: Tensor, nothing: int) -> Tensor:
        loss = naming_loss(logits, named, nothing)
        told.append((nothing, float(loss.detach())))
        return loss

    monkeypatch.setattr(readings, "naming_loss", noted)
    pipeline = family()
    start_transformer(pipeline.transformer)
    models, still = (pipeline.transformer, pipeline.text_encoder), replace(FLOW, blank=0.0, steps=2)
    for name, asked in (("words", True), ("pairs", False)):
        lesson = Lesson.of(encode_all(pipeline, draw_set(name, 1, 4)), pipeline.tokenizer)
        train_flow(*models, [lesson], still, tmp_path / name, Course(), until_step=1)
        spelled = [loss for nothing, loss in told if nothing == NO_LETTER]
        assert spelled == ([pytest.approx(math.log(NO_LETTER + 1), abs=1e-4)] if asked else [0])
        told.clear()


@pytest.mark.parametrize("name", ["pairs", "follows", "captions"])
def test_shards_are_made_once(tmp_path: Path, name: str) -> None:
    pipeline = family()
    made = load_or_make(tmp_path / "shard.pt", pipeline, partial(draw_rendered, name, 1), 3, Course())
    again = load_or_make(tmp_path / "shard.pt", pipeline, partial(draw_rendered, name, 2), 3, Course())
    assert torch.equal(made.source, again.source)
    assert torch.equal(made.target, again.target)
    assert made.prompts == again.prompts
    assert len(made) > 3 if name == "pairs" else len(made) == 3  # the edits that undo are there
    assert (made.references, made.grid) == ({"pairs": 1, "follows": 3, "captions": 0}[name], (8, 8))


def test_shards_of_another_vae_or_sight_are_not_taken(tmp_path: Path) -> None:
    pipeline, other = family(), family()
    own = encoders_digest(pipeline)
    with torch.no_grad():
        other.transformer.img_in.weight.add_(1.0)
    save(pipeline, tmp_path)
    assert own == encoders_digest(other) == encoders_digest(QwenImageEditPlusPipeline.from_pretrained(tmp_path))
    with torch.no_grad():
        other.text_encoder.model.visual.patch_embed.proj.weight.add_(1.0)
    another = encoders_digest(other)
    other.vae.register_to_config(latents_std=[2.0] * 16)
    assert len({own, another, encoders_digest(other)}) == 3


def test_noise_levels_visit_every_part_of_the_schedule_and_half_are_blind() -> None:
    levels = noise_levels(64, FLOW.shift, 0.75, torch.Generator().manual_seed(0)).sort().values
    assert 0 < levels[0] < 0.06
    assert 0.98 < levels[-1] < 1
    assert levels.diff().max() < 0.08
    assert (levels > 0.75).float().mean() > 0.5


def test_flow_loss_weighs_changed_cells_and_small_noise_levels() -> None:
    weighing = FlowRecipe(changed_share=0.6, full_weight_sigma=0.4)
    errors = torch.tensor([[1.0, 2.0, 4.0, 8.0], [1.0, 2.0, 4.0, 8.0]])
    changed = torch.tensor([[False, False, False, True], [True, True, True, True]])
    some, whole = 0.6 * 8 + 0.4 * (1 + 2 + 4) / 3, (1 + 2 + 4 + 8) / 4
    loss = flow_loss(errors, changed, torch.tensor([0.2, 0.9]), weighing)
    torch.testing.assert_close(loss, torch.tensor((some * 0.5**2 + whole) / 2))


# The least singular values of a random square matrix are too near 0 to come out near 1.
@pytest.mark.parametrize(("shape", "least"), [((24, 60), 0.6), ((60, 24), 0.6), ((32, 32), 0.0)])
def test_muons_updates_are_nearly_orthogonal(shape: tuple[int, int], least: float) -> None:
    matrices = torch.randn(3, *shape, generator=torch.Generator().manual_seed(0))
    left, _, right = torch.linalg.svd(matrices, full_matrices=False)
    update = orthogonal(matrices)
    # In the singular vectors' own axes it is nearly the identity.
    turned = left.mT @ update @ right.mT
    values = turned.diagonal(dim1=-2, dim2=-1)
    assert torch.linalg.svdvals(update).min() > least
    assert torch.linalg.svdvals(update).max() < 1.3
    assert values.median() > 0.6
    assert values.min() > least
    assert (turned - torch.diag_embed(values)).abs().max() < 0.05


def test_the_average_forgets_the_start_and_follows() -> None:
    weight = torch.nn.Parameter(torch.zeros(2))
    average = Average({"weight": weight}, decay=0.9)
    with torch.no_grad():
        weight.fill_(1.0)
    for step in range(80):
        average.update({"weight": weight}, step)
    assert torch.allclose(average.values["weight"], torch.ones(2), atol=1e-3)


def test_learning_rates_rise_and_end_above_zero() -> None:
    for rate in (
        [warm_then_linear(step, 100, 10) for step in range(100)],
        [trapezoid(step, 100, 10, 0.3) for step in range(100)],
    ):
        assert rate[0] < rate[9] <= 1
        assert 0 < rate[-1] < 0.1
        assert max(rate) <= 1
    assert warm_then_linear(0, 100, 0) == trapezoid(0, 100, 0, 0.3) == 1


def test_training_always_keeps_one_core(tmp_path: Path) -> None:
    assert FreeCores()() >= 1
    assert FreeCores(tmp_path / "no counters")() >= 1


def test_a_stage_that_yields_makes_the_same_steps_and_leaves_the_threads_as_they_were() -> None:
    before, many = torch.get_num_threads(), 1 + (os.cpu_count() or 1)
    torch.set_num_threads(many)
    try:
        during = {step: torch.get_num_threads() for step in beside_others(iter(range(20)))}
        assert list(during) == list(range(20))
        cores = os.cpu_count() or 1
        assert during[0] == during[8] == cores
        assert set(during.values()) <= {cores, max(1, cores // 2)}
        assert torch.get_num_threads() == many
    finally:
        torch.set_num_threads(before)


def test_another_recipe_takes_other_batches(tmp_path: Path, pairs: Pairs) -> None:
    def first_loss(seed: int) -> float:
        pipeline = family()
        start_transformer(pipeline.transformer)
        recipe = replace(FLOW, seed=seed, steps=1)
        path = tmp_path / f"{seed}.pt"
        lesson = Lesson.of(pairs, pipeline.tokenizer)
        return train_flow(pipeline.transformer, pipeline.text_encoder, [lesson], recipe, path, Course())[0]

    assert first_loss(0) != first_loss(1)


def test_without_a_compiler_the_option_that_does_without_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    small = ("--recipe", "smoke", "--set", "vae.compiled=true", "--device", "cpu")
    said = told("--part", "edit", *small, "--work", str(tmp_path / "work"))
    assert "no C++ compiler" in said
    assert "--no-compile" in said


def test_a_lesson_leaves_out_and_repeats_without_copying(pairs: Pairs) -> None:
    tokenizer = train_tokenizer()
    assert len(Lesson.of(pairs, tokenizer, {"inverted": 0})) == 0
    twice = Lesson.of(pairs, tokenizer, {"inverted": 2, "sepia": 5})
    assert twice.rows == [row for row in range(len(pairs)) for _ in range(2)]
    assert twice.pairs is twice.part([3, 5]).pairs is pairs
    chosen, _ = twice.part([3, 5, 5]).choose(np.random.default_rng(0), 300, blank=0.0)
    assert set(chosen.tolist()) == {3, 5}
    assert 150 < chosen.tolist().count(5) < 250


def weights(family: Path) -> dict[str, bytes]:
    """Of each model in a family's folder, what its files hold."""
    return {part: (family / part / f"{name}.safetensors").read_bytes() for part, name in (
        ("transformer", "diffusion_pytorch_model"), ("text_encoder", "model"), ("vae", "diffusion_pytorch_model"),
    )}  # fmt: skip


def test_training_goes_on_from_a_finished_family(tmp_path: Path) -> None:
    begun, work, threads = build(tmp_path / "begun", seed=5), tmp_path / "work", torch.get_num_threads()
    recipe = replace(
        RECIPES["smoke"],
        flow=replace(FLOW, steps=1, batch=2, train_text=False),
        shards=dict.fromkeys(("pairs", "follows", "captions"), (1, 1)),
        times={},
    )
    with pytest.raises(FileNotFoundError, match=r"vae_done\.pt is missing"):
        export(work)
    stages: list[str] = []
    # The minutes are over as soon as the path stage has begun.
    course = Course(minutes=1, show=lambda stage, *_: stages.append(stage), clock=lambda: 60.0 * ("path" in stages))
    with pytest.raises(OutOfTime, match="path: 1 of 2"):
        train_family(work, recipe, course, threads, begun)
    flowed, exported = weights(work / "flowed"), weights(export(work))
    further = train_family(work, recipe, Course(), threads, begun)
    old, new = weights(begun), weights(further)
    assert len({old["transformer"], flowed["transformer"], exported["transformer"], new["transformer"]}) == 4
    assert weights(export(work)) == new
    for part in ("vae", "text_encoder"):
        assert old[part] == flowed[part] == exported[part] == new[part]

    # As a training that is older than the path stage left it.
    shutil.rmtree(work / "flowed")
    shutil.rmtree(further)
    (work / "path.pt").unlink()
    (work / "scores" / "path.json").unlink()
    assert weights(export(work)) == flowed
    assert weights(train_family(work, recipe, Course(), threads, begun)) == new

    with pytest.raises(OtherRecipe, match=f"{work} was begun with a --begin-with; go on as it was begun"):
        train_family(work, replace(recipe, path=replace(recipe.path, steps=3)), Course())
    assert family_of(work, begun) == family_of(work, None) == further
    with pytest.raises(OtherRecipe, match=f"{work} was begun with another family than {EDIT}, or with none; "):
        family_of(work, EDIT)
    assert family_of(tmp_path / "fresh", begun) == begun
    assert family_of(tmp_path / "empty", None) == EDIT
    assert not [path for path in further.rglob("*.json") if str(tmp_path) in path.read_text()]


def test_a_family_begins_with_the_vae_and_sight_of_another(tmp_path: Path) -> None:
    work, stages = tmp_path / "work", set[str]()
    recipe = replace(RECIPES["smoke"], shards={"pairs": (1, 1)}, times={})
    course = Course(show=lambda stage, *_: stages.add(stage))
    made = train_family(work, recipe, course, torch.get_num_threads(), sight_of=EDIT)
    assert {"flow", "path"} < stages
    assert not stages & {"vae", "decoder", "sight"}
    assert weights(made)["vae"] == weights(EDIT)["vae"]
    new, shipped = (TextEncoder.from_pretrained(folder / "text_encoder").model for folder in (made, EDIT))
    same = [torch.equal(*pair) for pair in zip(new.visual.parameters(), shipped.visual.parameters(), strict=True)]
    assert all(same)
    words = zip(new.language_model.parameters(), shipped.language_model.parameters(), strict=True)
    assert not any(torch.equal(*pair) for pair in words if pair[0].ndim > 1)

    assert train_family(work, recipe, Course(), sight_of=EDIT) == made
    with pytest.raises(OtherRecipe, match=f"{work} was begun with a --sight-of; go on as it was begun"):
        train_family(work, recipe, Course())
    other = build(tmp_path / "other", seed=5)
    with pytest.raises(OtherRecipe, match=f"{work} was begun with another sight than that of {other}; "):
        train_family(work, recipe, Course(), sight_of=other)


def test_what_is_saved_again_is_the_same(tmp_path: Path) -> None:
    pipeline = family()
    for name in ("one", "two"):
        save(pipeline, tmp_path / name)
    files = [path for path in (tmp_path / "one").rglob("*") if path.is_file()]
    assert all(
        path.read_bytes() == (tmp_path / "two" / path.relative_to(tmp_path / "one")).read_bytes() for path in files
    )


def test_another_recipe_in_the_same_folder_is_refused_and_told(tmp_path: Path) -> None:
    recipe = RECIPES["smoke"]
    identity = replace(recipe.identity, steps=1)
    work = tmp_path / "begun"
    train_parts(["identity"], work, replace(recipe, identity=identity), Course())
    keep_to(work, "edit", settings_of("edit", recipe))
    train_parts(["identity"], work, replace(recipe, identity=identity, flow=FlowRecipe()), Course())
    noted = (work / BEGUN).read_text()
    with pytest.raises(OtherRecipe, match=r"begun/recipe\.json: identity was begun with identity\.steps 1, not 3; "):
        train_parts(PARTS, work, recipe, Course())
    assert (work / BEGUN).read_text() == noted
    longer = replace(recipe, flow=replace(recipe.flow, steps=9, compiled=True), times={"follow": 3}, shards={})
    with pytest.raises(OtherRecipe, match=r"edit .*flow\.steps 4, not 9.*shards\.pairs \[1, 1\], not nothing"):
        train_parts(PARTS, work, replace(longer, identity=identity), Course())
    assert "identity was begun with identity.steps 1, not" in told(
        "--work", str(work), "--recipe", "cpu", "--device", "cpu", "--part", "identity"
    )


def test_an_encoder_whose_writing_was_killed_is_not_taken_for_finished(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(tensors: object, path: Path) -> None:
        path.write_bytes(b"half")
        raise KeyboardInterrupt

    file = tmp_path / "identity" / "encoder.safetensors"
    with monkeypatch.context() as context:
        context.setattr(encoders, "save_file", killed)
        with pytest.raises(KeyboardInterrupt):
            train_parts(["identity"], tmp_path, RECIPES["smoke"], Course())
    assert not file.exists()
    train_parts(["identity"], tmp_path, RECIPES["smoke"], Course())
    assert load_file(file)
    assert [path.name for path in file.parent.iterdir()] == [file.name]


def test_notes_are_whole_or_the_old_ones_and_a_damaged_one_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keep_to(tmp_path, "identity", {"steps": 1})
    tell(tmp_path, "identity", 1, {}, Course())

    def killed(path: Path, text: str) -> None:
        path.write_bytes(text.encode()[:9])
        raise KeyboardInterrupt

    with monkeypatch.context() as context:
        context.setattr(Path, "write_text", killed)
        with pytest.raises(KeyboardInterrupt):
            keep_to(tmp_path, "bridge", {"epochs": 1})
        with pytest.raises(KeyboardInterrupt):
            tell(tmp_path, "identity", 2, {}, Course())
    keep_to(tmp_path, "identity", {"steps": 1})
    assert finished(tmp_path, "identity", 1)
    assert not finished(tmp_path, "identity", 2)
    for content in ('{"identity": {"st', "[]"):
        (tmp_path / BEGUN).write_text(content)
        assert f"{tmp_path / BEGUN} is damaged: " in told("--work", str(tmp_path), "--part", "identity")
        (tmp_path / "scores" / "identity.json").write_text(content)
        with pytest.raises(ValueError, match=r"scores/identity\.json is damaged: "):
            finished(tmp_path, "identity", 1)


def test_a_folder_that_is_older_than_a_setting_is_refused_by_its_name(tmp_path: Path) -> None:
    settings = settings_of("edit", RECIPES["smoke"])
    older = {name: value for name, value in settings.items() if name != "flow.spelling"}
    noted = json.dumps({"edit": older})
    (tmp_path / BEGUN).write_text(noted)
    with pytest.raises(OtherRecipe, match=r"flow\.spelling nothing, not 0\.15;.*take another --work"):
        keep_to(tmp_path, "edit", settings)
    assert (tmp_path / BEGUN).read_text() == noted


def test_every_setting_of_a_recipe_can_be_given_by_its_name() -> None:
    recipe = with_settings(RECIPES["cpu"], ["flow.cooldown=0.5", "times.follow=8", "times.write=0", "flow.steps=9"])
    assert (recipe.flow.cooldown, recipe.flow.steps) == (0.5, 9)
    assert {**recipe.times, "follow": 5} == {**RECIPES["cpu"].times, "follow": 5, "write": 0}
    assert replace(recipe, flow=FlowRecipe(), times={}) == replace(RECIPES["cpu"], flow=FlowRecipe(), times={})


@pytest.mark.parametrize(
    ("setting", "named"),
    [
        ("flow.speed=2", "--set: 'flow.speed' is no setting of a recipe"),
        ("times.juggle=2", "--set: 'times.juggle' is no setting"),
        ("flow=2", "--set: 'flow' is no setting"),
        ("flow.steps", "--set: 'flow.steps' gives flow.steps no JSON value"),
        ("flow.steps=many", "--set: 'flow.steps=many' gives flow.steps no JSON value"),
        ('flow.steps="many"', "--set: flow.steps: input should be a valid integer"),
        ("path.counts=[]", "--set: path.counts: tuple should have at least 1 item"),
        ("path.learns=0", "--set: path.learns: input should be greater than 0"),
        ("shards.pairs=[1]", "--set: shards.pairs.1: field required"),
        ("shards.pairs=[0, 10]", "--set: shards.pairs.0: input should be greater than 0"),
        ("cases=0", "--set: cases: input should be greater than 0"),
        ("flow.batch=0", "--set: flow.batch: input should be greater than 0"),
        ("flow.steps=-4", "--set: flow.steps: input should be greater than 0"),
        ("flow.changed_share=0", "--set: flow.changed_share: input should be greater than 0"),
        ("flow.blank=NaN", "--set: flow.blank: input should be"),
        ("flow.velocity_from=2", "--set: flow.velocity_from: input should be less than or equal to 1"),
        ("flow.velocity_warmup=-1", "--set: flow.velocity_warmup: input should be greater than or equal to 0"),
        ("vae.crop=60", "--set: vae.crop: input should be a multiple of 8"),
        ("vae.crop=136", "--set: vae.crop: input should be less than or equal to 128"),
        ("decoder.pool=0", "--set: decoder.pool: input should be greater than 0"),
        ("path.seed=1", "--set: 'path.seed' is no setting"),
        ('flow.first=["juggle"]', "--set: flow.first: juggle: not one of recolour, "),
        ("times.follow=-1", "--set: times.follow: input should be greater than or equal to 0"),
        ("seed=-1", "--set: seed: input should be greater than or equal to 0"),
        ("bridge.lr=0", "--set: bridge.lr: input should be greater than 0"),
        ("bridge.held_out=6000", "--set: bridge.held_out: leaves nothing to learn from; bridge.triples is 6000"),
    ],
)
def test_a_setting_that_is_none_is_named(setting: str, named: str) -> None:
    with pytest.raises(ValueError, match=re.escape(named)):
        with_settings(RECIPES["cpu"], [setting])


def test_the_recipes_themselves_are_within_their_bounds() -> None:
    for recipe in RECIPES.values():
        assert with_settings(recipe, [f"seed={recipe.seed}"]) == recipe
    with pytest.raises(ValueError, match="--set: times: is 0 for every kind"):
        with_settings(RECIPES["smoke"], [f"times.{kind}=0" for name in SETS for kind in TEACHES[name]])


def test_kinds_choose_the_sets_and_one_that_none_draws_is_named(tmp_path: Path) -> None:
    cpu = torch.device("cpu")
    chosen = choose_recipe("cpu", cpu, kinds=["follow", PORTRAIT])
    assert chosen.flow.alone == choose_recipe("cpu", cpu, goes_on=True).flow.alone == 0
    assert choose_recipe("cpu", cpu, goes_on=True, settings=["flow.alone=0.2"]).flow.alone == 0.2
    assert choose_recipe("smoke", cpu).flow.alone > choose_recipe("smoke", cpu, goes_on=True).flow.alone == 0
    # A family that goes on can read already; new kinds must be read.
    assert choose_recipe("cpu", cpu, goes_on=True).flow.reading == 0 < chosen.flow.reading
    assert set(chosen.shards) == {"follows", "captions"}
    assert chosen.times["follow"] == chosen.times[PORTRAIT] == 1
    assert not any(times for kind, times in chosen.times.items() if kind not in ("follow", PORTRAIT))
    said = told("--work", str(tmp_path), "--kind", "arrow", "--kind", "follow")
    assert "--kind: arrow: in none of the recipe's sets" in said
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", SETS)
def test_what_a_set_teaches_is_what_it_draws(name: str) -> None:
    assert {example.kind for example in draw_set(name, 4, 3)} <= set(TEACHES[name])


class Ticking:
    """A clock on which a minute passes whenever it is read."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self) -> float:
        self.seconds += 60
        return self.seconds


def test_a_run_keeps_what_it_reached_when_its_minutes_are_over() -> None:
    kept: list[int] = []
    shown: list[tuple[str, int, int]] = []
    course = Course(minutes=3, clock=Ticking(), every=2, show=lambda *seen: shown.append(seen))
    with pytest.raises(OutOfTime, match="sight: 3 of 9"):
        list(course.steps("sight", 0, 9, kept.append))
    assert kept == [2, 3]
    assert shown == [("sight", done, 9) for done in range(4)]
    with pytest.raises(OutOfTime, match="flow: 0 of 5"):
        course.begin("flow", 5)


def test_the_last_step_is_no_stop_and_the_shortest_run_makes_a_step() -> None:
    course = Course(minutes=0.001, clock=Ticking())
    course.begin("vae", 1)
    assert list(course.steps("vae", 0, 1, lambda done: None)) == [0]


def test_other_processes_draw_the_same_in_the_same_order() -> None:
    draw = partial(draw_rendered, "pairs", 3)
    here, there = (list(Course(workers=count).drawn(draw, range(4))) for count in (0, 2))
    assert [[one.instruction for one in drawn] for drawn in here] == [[one.instruction for one in d] for d in there]
    assert all(
        np.array_equal(a.target, b.target) for x, y in zip(here, there, strict=True) for a, b in zip(x, y, strict=True)
    )


def test_a_shard_goes_on_where_the_minutes_ended(tmp_path: Path) -> None:
    pipeline, draw = family(), partial(draw_rendered, "pairs", 1)
    whole = load_or_make(tmp_path / "whole.pt", pipeline, draw, 36, Course())
    for batch in (1, 2):
        with pytest.raises(OutOfTime, match=r"parts_1: .* of 36"):
            load_or_make(tmp_path / "parts_1.pt", pipeline, draw, 36, Course(minutes=1, clock=Ticking()))
        assert (tmp_path / "parts_1_begun.pt").exists(), batch
    parts = load_or_make(tmp_path / "parts_1.pt", pipeline, draw, 36, Course())
    assert whole.prompts == parts.prompts
    assert torch.equal(whole.seen, parts.seen)
    assert torch.equal(whole.target, parts.target)
    assert not (tmp_path / "parts_1_begun.pt").exists()


def test_the_whole_training_stopped_again_and_again_makes_every_shipped_file(tmp_path: Path) -> None:
    """By the command without a stop, and in runs of a few steps each: the same bytes."""
    threads = torch.get_num_threads()
    whole, halves = tmp_path / "whole", tmp_path / "halves"
    arguments = ["train", "--recipe", "smoke", "--device", "cpu", "--threads", str(threads), "--work", str(whole)]
    done = CliRunner().invoke(pocket, arguments)
    assert done.exit_code == 0, done.output

    lines: list[str] = []
    for _ in range(12):
        course = Course(lines.append, minutes=7, clock=Ticking())
        train_and_tell(PARTS, halves, RECIPES["smoke"], course, threads, None, None, put_in_place=False)
        if "the same command goes on" not in lines[-1]:
            break
    assert sum("minutes are over" in line for line in lines) > 3
    # What belongs to a family says to which.
    assert {f"lightning: for {halves / 'family'}", f"bridge: between {halves / 'qwen3vl'} and {halves / 'family'}"} <= {
        *lines
    }
    assert lines[-1] == f"identity: {halves / 'identity'}"
    folders = {part: "family" if part == "edit" else part for part in PARTS}
    files = [path for path in whole.rglob("*") if path.is_file() and path.suffix != ".pt"]
    assert {path.relative_to(whole).parts[0] for path in files} == {*folders.values(), "flowed", "scores", BEGUN}
    for path in files:
        assert path.read_bytes() == (halves / path.relative_to(whole)).read_bytes(), path

    for part, folder in folders.items():
        install(halves / folder, tmp_path / "weights" / part)
        shipped, made = (
            {path.relative_to(weights / part) for path in (weights / part).rglob("*") if path.is_file()}
            for weights in (WEIGHTS, tmp_path / "weights")
        )
        assert shipped <= made, part


def test_what_does_not_fit_a_family_put_in_place_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    weights = tmp_path / "weights"
    for part in ("edit", "lightning", "qwen3vl", "bridge"):
        shutil.copytree(WEIGHTS / part, weights / part)
    monkeypatch.setattr(training, "WEIGHTS", weights)
    lines: list[str] = []
    training.place({"identity": WEIGHTS / "identity"}, lines.append, put_in_place=True)
    assert lines == [f"identity: {weights / 'identity'}"]
    training.place({"edit": build(tmp_path / "new", seed=5)}, lines.append, put_in_place=True)
    commands = [shlex.split(line.partition(": darkroom ")[2]) for line in lines[2:]]
    assert commands.pop() == "bench injection --only defaults --install defaults".split()
    # Followed to the letter, in a folder where another family was trained.
    monkeypatch.chdir(tmp_path)
    build(tmp_path / "training" / "family", seed=6)
    for part, command in zip(("lightning", "bridge"), commands, strict=True):
        *begun, given, family, to, work, end = command
        assert [*begun, given, to, end] == ["pocket", "train", "--part", part, "--begin-with", "--work", "--install"]
        assert family_of(Path(work), Path(family)) == weights / "edit"
        assert not (Path(work) / "qwen3vl").exists()


def test_exporting_takes_no_orders_for_a_training(tmp_path: Path) -> None:
    said = told("--export", "--work", str(tmp_path), "--steps", "9", "--freeze-text", "--no-compile")
    assert "--export: writes the family that --work holds" in said
    assert "leave out --steps, --compile, --freeze-text" in said
    said = told("--export", "--work", str(tmp_path), "--threads", "2", "--device", "cpu")
    assert "leave out --threads, --device" in said


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        (["--minutes", "0"], "--minutes: 0 is no time"),
        (["--minutes", "nan"], "--minutes: nan is no time"),
        (["--device", "tpu"], "--device.*tpu: not one of cpu, cuda"),
        (["--recipe", "fast"], "--recipe.*fast: not one of cpu, short, gpu, smoke"),
        (["--part", "ears"], "--part.*ears: not one of edit"),
        (["--kind", "juggle"], "--kind.*juggle: not one of recolour"),
        (["--set", "flow.speed=2"], "--set: 'flow.speed' is no setting of a recipe"),
        (["--kind", "follow", "--shards", "3"], "--shards: counts edits of one square picture, and --kind follow"),
        (["--part", "bridge", "--kind", "sepia"], "--part: --kind is of edit alone"),
        (["--part", "bridge", "--steps", "3", "--shards", "1"], "--part: --steps, --shards is of edit alone"),
        (["--part", "lightning", "--freeze-text", "--no-compile"], "--part: --freeze-text, --compile is of edit"),
        (["--part", "identity", "--begin-with", "x"], "--begin-with: identity is made for no family"),
        (["--freeze-text"], "--freeze-text needs --begin-with"),
        (["--begin-with", "nowhere"], "--begin-with: there is no family in nowhere"),
        (["--sight-of", "nowhere"], "--sight-of: there is no family in nowhere"),
        (["--sight-of", str(EDIT), "--begin-with", str(EDIT)], "--sight-of: --begin-with brings its own"),
        (["--part", "bridge", "--sight-of", str(EDIT)], "--part: --sight-of is of edit alone"),
    ],
)
def test_a_wrong_setting_is_named(tmp_path: Path, wrong: list[str], named: str) -> None:
    assert re.search(named, told("--work", str(tmp_path), *wrong))
    assert not list(tmp_path.iterdir())


def test_a_gpu_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert "--device: cuda is not there" in told("--work", str(tmp_path), "--device", "cuda")


def test_lines_for_a_file_arrive_there_beside_a_bar(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    # rich takes stderr for a terminal.
    monkeypatch.setenv("FORCE_COLOR", "1")
    with stage_bar() as show:
        show("sight", 1, 3)
        print("sight 1/3: loss 2.0")
    told = capsys.readouterr()
    assert told.out == "sight 1/3: loss 2.0\n"
    assert "sight" in told.err
