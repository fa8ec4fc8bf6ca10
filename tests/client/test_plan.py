"""Lists of jobs: what is read from them, and what is said about their faults before anything is sent."""

import contextlib
import csv
import io
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from darkroom.client.batch import PlanError, read_plan
from darkroom.client.batch.fields import parse_loras, parse_text
from tests.client.fake_endpoint import picture


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("a.png", "b.png", "c d.png"):
        (tmp_path / name).write_bytes(picture(name))
    return tmp_path


def written(folder: Path, text: str, name: str = "jobs.csv") -> Path:
    path = folder / name
    path.write_text(text, "utf-8")
    return path


def faults(path: Path, **defaults: Any) -> list[str]:
    with pytest.raises(PlanError) as caught:
        read_plan(path, defaults)
    return caught.value.faults


def test_cells_get_the_types_of_their_fields(folder: Path) -> None:
    path = written(folder, (
        "image,prompt,num_inference_steps,true_cfg_scale,seed,preset,loras,output_format\n"
        'a.png;b.png,"make it red, please",8,2.5,42,balanced,s.safetensors:0.5,webp\n'
        "c d.png,blue,,,,,,\n"
    ))
    first, second = read_plan(path, {})
    assert first.fields == {
        "prompt": "make it red, please", "num_inference_steps": 8, "true_cfg_scale": 2.5, "seed": 42,
        "preset": "balanced", "loras": [{"path": "s.safetensors", "scale": 0.5}], "output_format": "webp",
    }
    assert [Path(image).name for image in first.images] == ["a.png", "b.png"]
    assert second.fields == {"prompt": "blue"}
    assert second.where == "jobs.csv line 3"


def test_paths_are_relative_to_the_list_not_to_the_shell(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir("/")
    assert read_plan(written(folder, "image,prompt\na.png,x\n"), {})[0].images == (str(folder / "a.png"),)


def test_a_byte_order_mark_and_windows_line_ends_do_no_harm(folder: Path) -> None:
    path = folder / "jobs.csv"
    path.write_bytes(b"\xef\xbb\xbfimage,prompt\r\na.png,x\r\n\r\nb.png,y\r\n")
    assert [planned.prompt for planned in read_plan(path, {})] == ["x", "y"]


def test_an_unknown_column_is_named_with_its_line_and_the_right_spelling(folder: Path) -> None:
    assert faults(written(folder, "image,prompt,num_inference_step\na.png,x,8\n")) == [
        "jobs.csv line 1: 'num_inference_step' is not a field of image_edit; did you mean num_inference_steps?"
    ]


def test_every_fault_is_told_at_once_with_its_own_line(folder: Path) -> None:
    path = written(folder, (
        "image,prompt,seed\n"
        "a.png,x,seven\n"
        '"b.png","two\nlines",1\n'
        "gone.png,x,1\n"
        "a.png,x\n"
        "a.png,,\n"
        "a.png,x,-5\n"
    ))
    assert faults(path) == [
        "jobs.csv line 2: seed: input should be a valid integer, unable to parse string as an integer, got 'seven'",
        "jobs.csv line 5: gone.png: No such file or directory",
        "jobs.csv line 6: 2 cells under 3 columns; quote a text that holds a comma",
        "jobs.csv line 7: there is no prompt; give one in the row or with --prompt",
        "jobs.csv line 8: seed: input should be greater than or equal to -1, got -5",
    ]


@pytest.mark.parametrize(("text", "fault"), [
    ("prompt\nx\n", "there is no column image"),
    ("image,images,prompt\n", "either image or images"),
    ("image,prompt,prompt\na.png,x,y\n", "stands there 2 times"),
    ("image;prompt\na.png;x\n", "separated by commas"),
    ('image,prompt\na.png,"unclosed\n', "line 2: unexpected end of data"),
    ("image,prompt,type\na.png,x,video_edit\n", "type: input should be 'image_edit'"),
    ("image,prompt\n;,x\n", "there is no image"),
    ("image,prompt\na.png;a.png;a.png;a.png,x\n", "images: "),
    ("image,prompt,idempotency_key\na.png,x,k\nb.png,y,k\n", "stands on 2 lines"),
    ("image,prompt\njobs.csv,x\n", "this is not a PNG"),
    ("image,prompt\n", "holds no jobs"),
    ("", "there is no column image"),
])
def test_a_list_that_cannot_run_says_why(folder: Path, text: str, fault: str) -> None:
    assert any(fault in each for each in faults(written(folder, text)))


def test_a_jsonl_takes_the_jobs_own_form(folder: Path) -> None:
    lines = [
        {"image": "a.png", "prompt": "x", "seed": 1},
        {"input": {"images": ["a.png", "https://example.com/x.png"], "prompt": ["x", "y"]}},
    ]
    path = written(folder, "\n\n".join(json.dumps(line) for line in lines) + "\n", "jobs.jsonl")
    first, second = read_plan(path, {"seed": 9})
    assert (first.fields["seed"], second.fields["seed"]) == (1, 9)
    assert second.images[1] == "https://example.com/x.png"
    assert second.where == "jobs.jsonl line 3"


def test_faults_of_a_jsonl_have_their_lines(folder: Path) -> None:
    path = written(folder, '{"image": "a.png", "prompt": "x"\n[1]\n{"image": "a.png", "prompt": "x", "sed": 1}\n'
                           '{"image": "a.png", "prompt": "x", "seed": "7"}\n{"prompt": "x"}\n', "jobs.jsonl")
    told = faults(path)
    assert [fault.partition(":")[0] for fault in told] == [f"jobs.jsonl line {n}" for n in (1, 2, 3, 4, 5)]
    assert "did you mean seed" in told[2]
    assert "valid integer" in told[3]


def test_a_folder_takes_every_picture_in_order(folder: Path) -> None:
    written(folder, "x", "notes.txt")
    (folder / ".hidden.png").write_bytes(picture("h"))
    plan = read_plan(folder, {"prompt": "make it red"})
    assert [Path(planned.images[0]).name for planned in plan] == ["a.png", "b.png", "c d.png"]
    assert {planned.prompt for planned in plan} == {"make it red"}
    assert all("no prompt" in fault for fault in faults(folder))


def test_another_kind_of_file_is_refused(folder: Path) -> None:
    assert "no .csv, .jsonl or folder" in faults(written(folder, "x", "jobs.txt"))[0]
    path = folder / "jobs.csv"
    path.write_bytes(b"image,prompt\na.png,caf\xe9\n")
    assert "not UTF-8" in faults(path)[0]


def test_a_job_is_the_same_while_its_picture_and_fields_are(folder: Path) -> None:
    def prints(text: str) -> list[str]:
        return [planned.fingerprint for planned in read_plan(written(folder, text), {})]

    before = prints("image,prompt\na.png,x\nb.png,y\n")
    moved = prints("prompt,image\ny,b.png\nnew,a.png\nx,a.png\n")
    assert [moved[2], moved[0]] == before
    (folder / "a.png").write_bytes(picture("another"))
    assert prints("image,prompt\na.png,x\nb.png,y\n")[0] != before[0]


def test_the_same_line_twice_is_two_jobs(folder: Path) -> None:
    plan = read_plan(written(folder, "image,prompt\na.png,x\na.png,x\n"), {})
    assert len({planned.fingerprint for planned in plan}) == 2


TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\x00\r"), min_size=1).filter(lambda t: t.strip())


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(TEXT, st.integers(-1, 2**63 - 1), st.floats(1.0, 20.0)), min_size=1, max_size=5))
def test_what_a_spreadsheet_writes_is_what_is_read(folder: Path, rows: list[tuple[str, int, float]]) -> None:
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(["prompt", "image", "seed", "true_cfg_scale"])
    writer.writerows([prompt, "a.png", seed, repr(cfg)] for prompt, seed, cfg in rows)
    path = folder / "jobs.csv"
    path.write_bytes(text.getvalue().encode())

    plan = read_plan(path, {})

    assert [(p.fields["prompt"], p.fields["seed"], p.fields["true_cfg_scale"]) for p in plan] == [
        (prompt.strip(), seed, cfg) for prompt, seed, cfg in rows
    ]
    lines = path.read_text("utf-8").split("\n")
    for planned in plan:
        number = int(planned.where.rpartition(" ")[2])
        # Quotes are doubled, and a prompt that begins with a line's end leaves nothing on its first line.
        first, wanted = (text.lstrip('"').strip() for text in (lines[number - 1], planned.fields["prompt"]))
        assert not first or first.startswith(wanted[:1])


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=200))
def test_no_bytes_of_a_list_end_in_anything_but_a_plan_or_a_plan_error(folder: Path, data: bytes) -> None:
    for name in ("jobs.csv", "jobs.jsonl"):
        path = folder / name
        path.write_bytes(data)
        with contextlib.suppress(PlanError):
            read_plan(path, {})


def test_loras_have_a_scale_where_one_is_written() -> None:
    assert parse_loras("https://example.com/a.safetensors; b:0.8;c:-1") == [
        {"path": "https://example.com/a.safetensors", "scale": 1.0},
        {"path": "b", "scale": 0.8},
        {"path": "c", "scale": -1.0},
    ]
    assert parse_loras('[{"path": "x", "scale": 2.0}]') == [{"path": "x", "scale": 2.0}]
    with pytest.raises(ValueError, match="not JSON"):
        parse_loras("[{")


def test_a_number_of_the_wrong_kind_names_its_field() -> None:
    with pytest.raises(ValueError, match=r"num_images: .*got '1\.5'"):
        parse_text("num_images", "1.5")
