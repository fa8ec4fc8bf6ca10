"""Rulers of the suites against results that are made to be right or wrong in a known way; the report."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from darkroom.errors import InvalidInput
from darkroom.media import ocr
from darkroom.models.bridge import Bridge, untrained
from darkroom.models.editor import Editor
from darkroom.models.enhanced import EnhancedEditor, Sampling, form_for
from darkroom.models.perceptual import load_pocket
from darkroom.models.vision import VisionExtractor
from darkroom.pocket.judging.samples import load_editor
from darkroom.technique.likeness import Pixels
from darkroom.workers.evaluation.battery import readable
from darkroom.workers.evaluation.case import Case, Ruler, Shot, Suite, to_picture
from darkroom.workers.evaluation.consistency import consistency
from darkroom.workers.evaluation.detail import detail
from darkroom.workers.evaluation.marks import marks
from darkroom.workers.evaluation.report import Judged, report, verdict
from darkroom.workers.evaluation.scenes import scale_for
from darkroom.workers.evaluation.spatial import spatial
from darkroom.workers.evaluation.study import SIDES, Subject, Tried, finished, outcomes, table, worst_first
from darkroom.workers.evaluation.text import Line, fonts_of, text

PERCEPTUAL = cache(load_pocket)


def distance(one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    return PERCEPTUAL().distance(one, other)


@pytest.fixture(scope="module")
def editor(family: Path) -> Editor:
    return load_editor(family)


SUITES = {
    "spatial": lambda scale: spatial(4, scale),
    "detail": lambda scale: detail(2, scale, distance),
    "consistency": lambda scale: consistency(3, scale),
    "marks": lambda _scale: marks(6),
}


def judged(case: Case, pick: Callable[[Shot], Pixels]) -> dict[str, float]:
    return dict(case.judge([pick(shot) for shot in case.shots]))


# -- suites -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SUITES)
def test_the_exact_result_scores_best_and_the_same_case_is_drawn_again(name: str) -> None:
    best = {"centroid_error": 0, "right_direction": 1, "psnr": 60, "ssim": 1, "lpips": 0,
            "subject_difference": 0, "followed": 1, "right": 1}  # fmt: skip
    suite, again = SUITES[name](1), SUITES[name](1)
    for case, same in zip(suite.cases, again.cases, strict=True):
        scores = judged(case, lambda shot: shot.target)
        assert set(scores) == {ruler.name for ruler in suite.rulers}
        assert scores == pytest.approx({ruler: best[ruler] for ruler in scores}, abs=1e-3)
        assert all(np.array_equal(a.source, b.source) for a, b in zip(case.shots, same.shots, strict=True))


def test_a_shape_that_stays_is_as_far_off_as_it_should_have_gone() -> None:
    for scale in (1, 2):
        for case in spatial(4, scale).cases:
            scores = judged(case, lambda shot: shot.source)
            assert scores == pytest.approx({"centroid_error": 32 / 128, "right_direction": 0.0}, abs=0.01)


def test_a_shape_that_is_gone_has_no_place() -> None:
    case = spatial(1, 1).cases[0]
    grey = np.full_like(case.shots[0].source, 0.5)
    vanished = judged(case, lambda _shot: grey)
    assert vanished["right_direction"] == 0.0


def test_what_the_edit_itself_changes_is_no_loss_of_detail_but_blur_elsewhere_is() -> None:
    for case in detail(2, 1, distance).cases:
        shot = case.shots[0]
        kept = judged(case, lambda shot: shot.source)
        assert kept["psnr"] == 60.0
        noise = np.random.default_rng(0).normal(0, 0.02, shot.target.shape)
        noisy = (shot.target + noise).clip(0, 1).astype(np.float32)
        worse = judged(case, lambda _shot, noisy=noisy: noisy)
        assert worse["psnr"] == pytest.approx(-20 * np.log10(0.02), abs=1.0)
        assert worse["ssim"] < kept["ssim"]
        assert worse["lpips"] > kept["lpips"]


def test_a_subject_that_is_left_alone_is_consistent_but_was_not_edited() -> None:
    for case in consistency(2, 1).cases:
        assert judged(case, lambda shot: shot.source) == pytest.approx({"subject_difference": 0.0, "followed": 0.0})
        mixed = [case.shots[0].target, *(shot.source for shot in case.shots[1:])]
        scores = case.judge(mixed)
        assert scores["followed"] == pytest.approx(1 / 3)
        assert scores["subject_difference"] > 0.05


def test_marks_are_seen_by_the_encoders_alone_and_nothing_is_right_without_an_edit() -> None:
    for case in marks(6).cases:
        shot = case.shots[0]
        assert shot.sight is not None
        assert shot.sight.shape[0] == 2 * shot.source.shape[0]
        assert judged(case, lambda shot: shot.source) == {"right": 0.0}


def test_cases_are_drawn_at_the_models_own_size() -> None:
    assert (scale_for(128 * 128), scale_for(1024 * 1024)) == (1, 8)
    for make in (SUITES["spatial"], SUITES["detail"], SUITES["consistency"]):
        assert make(2).cases[0].shots[0].source.shape == (256, 256, 3)


# -- text ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tesseract() -> ocr.Reader:
    """`make setup` installs it where it may; without it this fails and names the packages."""
    ocr.require(["eng", "deu", "fra"], "this test")
    return ocr.Reader()


def test_a_word_is_read_and_judged_by_what_it_says_and_how_it_looks(tesseract: ocr.Reader) -> None:
    case = text(1, 1, ["eng"], tesseract).cases[0]
    exact, unedited = judged(case, lambda shot: shot.target), judged(case, lambda shot: shot.source)
    assert exact == {"text_changed": 1.0, "text_found": 1.0, "colour_kept": 1.0, "size_kept": 1.0, "place_kept": 1.0}
    assert unedited["text_found"] == 1.0
    assert unedited["text_changed"] < 0.5
    blank = judged(case, lambda shot: np.broadcast_to(shot.source[0, 0], shot.source.shape).copy())
    assert blank == dict.fromkeys(exact, 0.0)


def test_letters_with_accents_are_read_in_their_languages(tesseract: ocr.Reader) -> None:
    font = fonts_of("deu")[0]
    for language, word in (("deu", "GRÜN"), ("fra", "CAFÉ")):
        mask = Line(word, font, 36, 64, 64).mask(128)
        picture = np.repeat(1 - mask[..., None], 3, axis=2)
        assert tesseract.read(to_picture(picture), language, 26) == word


def test_a_missing_engine_and_a_missing_language_name_debians_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InvalidInput, match="tesseract-ocr-xyz-abc") as missing:
        ocr.require(["eng", "xyz_abc"], "languages")
    assert missing.value.field == "languages"
    monkeypatch.setattr("pytesseract.pytesseract.tesseract_cmd", "no-such-program")
    with pytest.raises(InvalidInput, match=r"apt-get install tesseract-ocr tesseract-ocr-eng") as engine:
        readable(None)
    assert engine.value.field == "suites"


def test_a_language_without_a_font_is_named_and_left_out_unless_it_was_asked_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("darkroom.workers.evaluation.text._system_fonts", dict)
    found, notes = readable(None)
    assert "chi_sim" not in found
    assert "eng" in found
    assert any(note.startswith("chi_sim was not tested") for note in notes)
    monkeypatch.setattr("darkroom.media.ocr.available", lambda: frozenset({"eng", "chi_sim"}))
    with pytest.raises(InvalidInput, match="no font for chi_sim"):
        readable(["chi_sim"])


# -- the editor under test ----------------------------------------------------------------------


@pytest.fixture(scope="session")
def extractor(vision_folder: Path) -> VisionExtractor:
    return VisionExtractor.load(vision_folder, torch.device("cpu"), language=False)


def subject(editor: Editor, extractor: VisionExtractor, gate: float) -> Subject:
    bridge = untrained(form_for(editor, extractor, rank=8))
    assert bridge.module.gate is not None
    bridge.module.gate.data.fill_(gate)
    enhanced = EnhancedEditor(editor, Bridge(bridge.module))
    return Subject(
        enhanced, lambda shot: enhanced.sights(extractor, [to_picture(shot.seen)])[0], Sampling(1, true_cfg_scale=1.0)
    )


def test_untrained_every_difference_is_exactly_zero(editor: Editor, extractor: VisionExtractor) -> None:
    for suite in (marks(2), detail(1, 1, distance)):
        untrained_one = subject(editor, extractor, 0.0)
        cases = [finished(untrained_one, suite, i, [3, 4]) for i in range(len(suite.cases))]
        for outcome in outcomes(suite, cases):
            gap = outcome.difference
            assert (gap.mean, gap.low, gap.high) == (0.0, 0.0, 0.0)
            assert verdict(outcome) == "no difference shown"


def test_a_bridge_that_says_something_changes_the_scores(editor: Editor, extractor: VisionExtractor) -> None:
    suite = detail(1, 1, distance)
    case = finished(subject(editor, extractor, 2.0), suite, 0, [3])
    assert case.mean("baseline", "psnr") != case.mean("enhanced", "psnr")
    assert case.sheet.width > 4 * 128


# -- scores and report --------------------------------------------------------------------------

RULERS = (Ruler("error", "how wrong <it> is", "lower"), Ruler("decibels", "how right", unit="dB"))


def made_up(baseline: list[list[float]], enhanced: list[list[float]]) -> Judged:
    """Cases with the given error for each seed; decibels are 30 − error."""
    suite = Suite("made_up", "A <made up> suite", RULERS, (), notes=("xyz was not tested",))

    def scores(errors: list[float]) -> list[dict[str, float]]:
        return [{"error": error, "decibels": 30 - error} for error in errors]

    cases = [
        Tried(i, f"case & {i}", "make it <b>red</b>", {"error": 0.0, "decibels": 30.0},
              {"baseline": scores(before), "enhanced": scores(after)}, Image.new("RGB", (32, 24), "red"))
        for i, (before, after) in enumerate(zip(baseline, enhanced, strict=True))
    ]  # fmt: skip
    return Judged(suite, cases, outcomes(suite, cases))


def test_the_sign_of_better_is_the_rulers_own() -> None:
    one = made_up([[2.0, 4.0], [3.0, 3.0], [4.0, 2.0]], [[1.0, 1.0], [1.0, 3.0], [2.0, 2.0]])
    error, decibels = one.outcomes
    assert (error.baseline, error.enhanced) == pytest.approx((3.0, 5 / 3))
    assert error.difference.mean == pytest.approx(-4 / 3)
    assert decibels.difference.mean == pytest.approx(4 / 3)
    assert verdict(error) == verdict(decibels) == "better"
    assert verdict(made_up([[1.0], [1.0]], [[3.0], [2.0]]).outcomes[0]) == "worse"


def test_the_worst_cases_come_first() -> None:
    one = made_up([[1.0], [5.0], [2.0]], [[1.0], [9.0], [1.0]])
    assert [case.number for case in worst_first(one.suite, one.tried)] == [1, 0, 2]


def test_the_table_has_a_row_for_every_case_seed_and_side() -> None:
    one = made_up([[1.0, 2.0]], [[1.5, 2.5]])
    lines = table(one.suite, one.tried, [7, 8]).splitlines()
    assert lines[0] == "case,about,prompt,side,seed,error,decibels"
    assert [line.split(",")[3:] for line in lines[1:]] == [
        ["ceiling", "", "0.0", "30.0"],
        ["baseline", "7", "1.0", "29.0"],
        ["enhanced", "7", "1.5", "28.5"],
        ["baseline", "8", "2.0", "28.0"],
        ["enhanced", "8", "2.5", "27.5"],
    ]
    assert SIDES == ("baseline", "enhanced")


def test_the_report_stands_alone_escapes_what_it_shows_and_names_what_was_left_out() -> None:
    one = made_up([[1.0], [5.0]], [[1.0], [9.0]])
    page = report([one], {"Model": "pocket <edit>"}, ["the bridge is untrained"], seeds=1)
    assert "A &lt;made up&gt; suite" in page
    assert "make it &lt;b&gt;red&lt;/b&gt;" in page
    assert "pocket &lt;edit&gt;" in page
    assert "xyz was not tested" in page
    assert "the bridge is untrained" in page
    assert page.count("data:image/webp;base64,") == 2
    assert page.index("Case 1") < page.index("Case 0")
    assert not re.search(r'(src|href)="(?!data:|#)', page)
