"""Laws of training a bridge: it learns, nothing else changes, and a training that was interrupted ends the same."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from PIL import Image

from darkroom.models.bridge import Bridge, digest, from_bytes, to_bytes, untrained
from darkroom.models.bridge_training import Course, Lesson, Options, Trainer, Triple, lesson, sharper
from darkroom.models.editor import Editor
from darkroom.models.enhanced import EnhancedEditor, form_for, sight_grid
from darkroom.models.shelf import Shelf
from darkroom.models.specs import PROFILES
from darkroom.models.vision import VisionExtractor

QUICK = Options(distill_epochs=2, flow_epochs=1, batch_size=2, lr=1e-2, held_out=0.25, sigma_steps=4)


def triples(count: int) -> list[Triple]:
    rng = np.random.default_rng(0)
    drawn = [Image.fromarray(rng.integers(0, 255, (64, 64, 3), dtype=np.uint8)) for _ in range(2 * count)]
    prompts = ["make it red", "turn the star blue"]
    return [Triple(f"t{n}", drawn[2 * n], drawn[2 * n + 1], prompts[n % 2]) for n in range(count)]


@pytest.fixture(scope="module")
def eyes(vision_folder: Path) -> VisionExtractor:
    return VisionExtractor.load(vision_folder, torch.device("cpu"), language=False)


@pytest.fixture(scope="module")
def lessons(editor: Editor, eyes: VisionExtractor) -> list[Lesson]:
    image_processor = editor.processor.image_processor
    return [
        lesson(editor, one, eyes.look(one.seen, grid=sight_grid(one.seen.size, editor.areas, image_processor)))
        for one in triples(4)
    ]


@pytest.fixture
def enhanced(editor: Editor, eyes: VisionExtractor) -> EnhancedEditor:
    return EnhancedEditor(editor, untrained(form_for(editor, eyes, rank=8)))


def finish(trainer: Trainer) -> Bridge:
    while not trainer.finished:
        for _ in trainer.epoch():
            pass
    return trainer.checkpoint({})


def test_both_phases_learn_and_the_editor_stays_as_it_is(enhanced: EnhancedEditor, lessons: list[Lesson]) -> None:
    parts = (enhanced.editor.transformer, enhanced.editor.text_encoder)
    before = [{name: value.clone() for name, value in part.state_dict().items()} for part in parts]
    trainer = Trainer(enhanced, lessons, replace(QUICK, distill_epochs=6, flow_epochs=2))
    bridge = finish(trainer)
    told = trainer.course.validation
    assert len(told) == 9
    assert not bridge.is_identity
    # Learnt on three pictures of noise: what it must do is bring down what it was trained for.
    phases = [phase for phase, _ in trainer.course.losses]
    assert phases == ["distill"] * 12 + ["flow"] * 4
    first, last = (np.mean([loss for _, loss in trainer.course.losses[part]]) for part in (slice(0, 2), slice(10, 12)))
    assert last < first
    for part, weights in zip(parts, before, strict=True):
        assert all(torch.equal(value, weights[name]) for name, value in part.state_dict().items())
        assert all(parameter.grad is None for parameter in part.parameters())


def test_a_training_that_stopped_between_two_steps_does_not_keep_this_one_from_stepping(
    enhanced: EnhancedEditor, lessons: list[Lesson]
) -> None:
    """accelerate remembers for the whole process that gradients are being gathered."""
    other = Accelerator(gradient_accumulation_steps=2, cpu=True)
    with other.accumulate(torch.nn.Linear(1, 1)):
        assert not other.sync_gradients
    trainer = Trainer(enhanced, lessons, replace(QUICK, flow_epochs=0))
    before = {name: value.clone() for name, value in trainer.bridge.state_dict().items()}
    finish(trainer)
    assert any(not torch.equal(value, before[name]) for name, value in trainer.bridge.state_dict().items())


def test_the_flow_loss_reaches_the_bridge_through_both_models(eyes: VisionExtractor) -> None:
    """The gradient's length is the loss's own slope along it; on trained weights, since noise hardly reads its text."""
    editor = Shelf(PROFILES["pocket"]).editor("edit")
    seen = [eyes.look(one.seen, grid=(4, 4)) for one in triples(2)]
    lessons = [lesson(editor, one, sight) for one, sight in zip(triples(2), seen, strict=True)]
    trainer = Trainer(EnhancedEditor(editor, untrained(form_for(editor, eyes, rank=8))), lessons, QUICK)
    gate = trainer.bridge.gate

    def loss() -> torch.Tensor:
        return trainer.loss("flow", lessons, torch.Generator().manual_seed(1))

    loss().backward()
    direction, slope = gate.grad.sign(), float(gate.grad.abs().sum())

    @torch.no_grad()
    def loss_at(place: float) -> float:
        gate.copy_(place * direction)
        return float(loss())

    def difference(step: float) -> float:
        return (loss_at(step) - loss_at(-step)) / (2 * step)

    # The loss bends within a step that float32 can tell from none: two steps, and what they tend to (Richardson).
    assert slope == pytest.approx((4 * difference(0.0004) - difference(0.0008)) / 3, rel=0.06)


def test_a_batch_larger_than_a_forward_is_divided(
    enhanced: EnhancedEditor, lessons: list[Lesson], monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = Trainer(enhanced, [lessons[0]] * 8, replace(QUICK, batch_size=6))
    with torch.no_grad():
        whole = trainer.loss("flow", trainer.lessons[:6], torch.Generator().manual_seed(1))
        monkeypatch.setattr(enhanced.editor, "max_batch", 4)
        divided = trainer.loss("flow", trainer.lessons[:6], torch.Generator().manual_seed(1))
    torch.testing.assert_close(divided, whole)


def test_an_interrupted_training_ends_with_the_same_bridge(
    editor: Editor, eyes: VisionExtractor, lessons: list[Lesson]
) -> None:
    form = form_for(editor, eyes, rank=4)
    whole = finish(Trainer(EnhancedEditor(editor, untrained(form)), lessons, QUICK))
    first = Trainer(EnhancedEditor(editor, untrained(form)), lessons, QUICK)
    for _ in range(2):
        list(first.epoch())
    saved, record = from_bytes(to_bytes(first.checkpoint({}))), first.course.record()
    assert saved.training
    second = Trainer(EnhancedEditor(editor, saved), lessons, QUICK, Course(**record), saved.training)
    again = finish(second)
    assert digest(again) == digest(whole)
    assert not again.training
    assert len(second.course.losses) == 6


def test_gathered_gradients_are_those_of_one_large_batch(
    editor: Editor, eyes: VisionExtractor, lessons: list[Lesson]
) -> None:
    form = form_for(editor, eyes, rank=4)
    three = [lessons[0], lessons[0], lessons[1]]
    options = replace(QUICK, distill_epochs=1, flow_epochs=0, held_out=0.34)
    large = finish(Trainer(EnhancedEditor(editor, untrained(form)), three, options))
    gathering = replace(options, batch_size=1, gradient_accumulation=2)
    small = finish(Trainer(EnhancedEditor(editor, untrained(form)), three, gathering))
    for one, other in zip(large.module.parameters(), small.module.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


def test_a_sharper_look_is_the_mean_of_two_by_two_finer_cells(editor: Editor) -> None:
    picture = Image.effect_noise((128, 128), 90).convert("RGB")
    own = VisionExtractor(editor.text_encoder.model, editor.processor.image_processor, editor.processor.tokenizer)
    fine = own.look(picture, grid=(6, 8)).final.reshape(6, 8, -1)
    expected = torch.stack(
        [fine[2 * r : 2 * r + 2, 2 * c : 2 * c + 2].mean((0, 1)) for r in range(3) for c in range(4)]
    )
    one = Triple("a", picture, picture, "p")
    torch.testing.assert_close(sharper(editor, one, (3, 4)), expected)
    drawn = replace(one, sharp=picture.rotate(90))
    assert torch.equal(sharper(editor, drawn, (3, 4)), own.look(picture.rotate(90), grid=(3, 4)).final)


def test_too_few_triples_are_refused(enhanced: EnhancedEditor, lessons: list[Lesson]) -> None:
    with pytest.raises(ValueError, match="1 triples are too few"):
        Trainer(enhanced, lessons[:1], QUICK)
