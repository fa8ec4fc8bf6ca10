"""What the doctor finds, and that each finding says what to do."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from darkroom import cli_doctor_checks as checks
from darkroom.cli import app
from darkroom.settings import Settings


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("DARKROOM_PROFILE", "DARKROOM_STORE", "DARKROOM_EDIT_MODEL"):
        monkeypatch.delenv(name, raising=False)


def state_of(findings: list[checks.Finding], check: str) -> str:
    return next(finding.state for finding in findings if finding.check == check)


def test_a_bad_setting_is_named_with_its_variable(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("DARKROOM_PROFILE", "l5")
    findings = checks.examine(tmp_path)
    assert [f.remedy for f in findings if f.check == "settings"] == ["correct DARKROOM_PROFILE"]
    result = CliRunner().invoke(app, ["doctor"])
    assert result.exit_code == 1
    assert "DARKROOM_PROFILE" in result.output


def test_missing_weights_fail_and_say_how_to_get_them(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    finding = checks.model("edit", str(tmp_path / "nothing"), None)
    assert (finding.state, "pocket train" in finding.remedy) == ("fail", True)


def test_a_hub_model_that_is_not_here_is_a_warning_and_needs_room(tmp_path: Path) -> None:
    finding = checks.model("edit", "nobody/has-this-model", None)
    assert (finding.state, "58 GB" in finding.remedy) == ("warn", True)
    assert checks.disk(tmp_path / "not" / "yet", 1e18).state == "fail"
    assert checks.disk(tmp_path, 0.0).state == "ok"


def test_a_store_that_cannot_be_written_fails(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert checks.store(Settings(store=str(tmp_path / "file"))).state == "fail"
    assert checks.store(Settings(store=str(tmp_path / "results"))).state == "ok"


def test_a_profile_that_needs_a_card_fails_without_one() -> None:
    torch = pytest.importorskip("torch")
    finding = checks.card("a100", on_gpu=True, fp8=False)
    assert finding.state == ("ok" if torch.cuda.is_available() else "fail")
    assert checks.memory("a100", 1e15).remedy.startswith("profile a100 wants")


def test_every_finding_that_is_not_ok_says_what_to_do(tmp_path: Path) -> None:
    findings = checks.examine(tmp_path)
    assert state_of(findings, "Python") == "ok"
    assert all(finding.remedy for finding in findings if finding.state != "ok")


def test_a_machine_without_tesseract_is_told_the_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("darkroom.media.ocr.available", frozenset)
    finding = checks.reading()
    assert finding.state == "warn"
    assert "apt-get install tesseract-ocr tesseract-ocr-eng" in finding.remedy
    monkeypatch.setattr("darkroom.media.ocr.available", lambda: frozenset({"eng", "fra", "chi_sim"}))
    finding = checks.reading()
    assert "tesseract-ocr-deu" in finding.remedy
    assert "reads eng, fra" in finding.found


def test_a_vision_model_that_is_not_here_is_a_warning(tmp_path: Path) -> None:
    finding = checks.vision("nobody/has-this-model", None)
    assert (finding.state, "18 GB" in finding.remedy) == ("warn", True)
    assert "bridge and injection" in checks.vision(str(tmp_path / "nothing"), None).remedy
