"""A CSV, a JSONL file or a folder of pictures -> jobs, or every fault with its line before anything is sent."""

from __future__ import annotations

import csv
import functools
import hashlib
import io
import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from darkroom.client.batch.fields import FIELDS, IMAGE_COLUMNS, parse_text, unknown
from darkroom.client.request import GENEROUS, edit_input
from darkroom.client.sources import is_address, media_type
from darkroom.errors import BadJob
from darkroom.jobs import parse

PICTURES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff"})
MOST_FAULTS = 20
Look = Callable[[Path], tuple[str, str]]


class PlanError(ValueError):
    """The list cannot be run as it is; `faults` holds one sentence each, with the line."""

    def __init__(self, faults: list[str]) -> None:
        shown = faults[:MOST_FAULTS]
        more = [f"… and {len(faults) - len(shown)} more"] if len(faults) > len(shown) else []
        super().__init__("\n".join(shown + more))
        self.faults = faults


@dataclass(frozen=True)
class Planned:
    """One job of a list. `fingerprint` is the same as long as its pictures and fields are."""

    position: int
    where: str
    images: tuple[str, ...]
    fields: Mapping[str, Any]
    fingerprint: str = ""

    @property
    def prompt(self) -> str:
        """The instruction, several of them joined for people."""
        prompt = self.fields.get("prompt", "")
        return prompt if isinstance(prompt, str) else " | ".join(prompt)

    def request(self) -> dict[str, Any]:
        """The job's input, its files read now. Raises FileNotFoundError, ValueError or BadJob."""
        rest = {name: value for name, value in self.fields.items() if name != "prompt"}
        return edit_input(list(self.images), self.fields["prompt"], rest)


@dataclass
class _Row:
    where: str
    values: dict[str, Any]
    folder: Path
    faults: list[str] = field(default_factory=list)


def read_plan(path: Path, defaults: Mapping[str, Any]) -> list[Planned]:
    """Every job of the list; `defaults` fill the fields that a row leaves open.

    Paths in a file are relative to the file. Raises PlanError, OSError.
    """
    rows = list(_rows(path))
    if not rows:
        raise PlanError([f"{path} holds no jobs"])
    plan, faults, seen = [], [], Counter[str]()
    # A list often names one picture a thousand times; it is read once.
    look = functools.cache(_look)
    for position, row in enumerate(rows, 1):
        planned = _planned(position, row, defaults, look)
        faults += [f"{row.where}: {fault}" for fault in row.faults]
        if planned is not None:
            seen[planned.fingerprint] += 1
            plan.append(_nth(planned, seen[planned.fingerprint]))
    if faults := faults + _shared_keys(plan):
        raise PlanError(faults)
    return plan


def _nth(planned: Planned, occurrence: int) -> Planned:
    """The same line twice is two jobs: whoever writes it twice wants two pictures."""
    if occurrence == 1:
        return planned
    fingerprint = hashlib.sha256(f"{planned.fingerprint}:{occurrence}".encode()).hexdigest()
    return Planned(planned.position, planned.where, planned.images, planned.fields, fingerprint)


def _shared_keys(plan: list[Planned]) -> list[str]:
    keys = Counter(key for planned in plan if (key := planned.fields.get("idempotency_key")))
    return [f"idempotency_key {key!r} stands on {count} lines; it must be unique"
            for key, count in keys.items() if count > 1]


def _rows(path: Path) -> Iterator[_Row]:
    if path.is_dir():
        return _folder_rows(path)
    readers = {".csv": _csv_rows, ".jsonl": _jsonl_rows, ".ndjson": _jsonl_rows}
    reader = readers.get(path.suffix.lower())
    if reader is None:
        raise PlanError([f"{path} is no .csv, .jsonl or folder of pictures"])
    try:
        text = path.read_text("utf-8-sig")
    except UnicodeDecodeError as error:
        raise PlanError([f"{path} is not UTF-8 text: {error.reason} at byte {error.start}"]) from None
    return reader(path, text)


def _folder_rows(folder: Path) -> Iterator[_Row]:
    for picture in sorted(folder.iterdir()):
        if picture.suffix.lower() in PICTURES and picture.is_file() and not picture.name.startswith("."):
            yield _Row(str(picture), {"images": [picture.name]}, folder)


def _csv_rows(path: Path, text: str) -> Iterator[_Row]:
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        header = [name.strip() for name in next(reader, [])]
        _check_header(path, header)
        line = reader.line_num + 1
        for cells in reader:
            if any(cell.strip() for cell in cells):
                yield _csv_row(f"{path.name} line {line}", header, cells, path.parent)
            # A quoted cell may hold line breaks: a row starts after the last line of the one before.
            line = reader.line_num + 1
    except csv.Error as error:
        raise PlanError([f"{path.name} line {reader.line_num}: {error}"]) from None


def _check_header(path: Path, header: list[str]) -> None:
    where = f"{path.name} line 1"
    faults = [f"{where}: {sentence}" for sentence in unknown(header)]
    faults += [f"{where}: column {name!r} stands there {n} times" for name, n in Counter(header).items() if n > 1]
    if len(header) == 1 and ";" in header[0]:
        faults = [f"{where}: columns must be separated by commas, not semicolons"]
    elif not any(name in header for name in IMAGE_COLUMNS):
        faults.append(f"{where}: there is no column image")
    elif all(name in header for name in IMAGE_COLUMNS):
        faults.append(f"{where}: give either image or images, not both")
    if faults:
        raise PlanError(faults)


def _csv_row(where: str, header: list[str], cells: list[str], folder: Path) -> _Row:
    row = _Row(where, {}, folder)
    if len(cells) != len(header):
        row.faults.append(f"{len(cells)} cells under {len(header)} columns; quote a text that holds a comma")
        return row
    for name, cell in zip(header, cells, strict=True):
        text = cell.strip()
        if not text:
            continue
        if name in IMAGE_COLUMNS:
            row.values["images"] = _split_images(text)
            continue
        try:
            row.values[name] = parse_text(name, text)
        except ValueError as error:
            row.faults.append(str(error))
    return row


def _split_images(text: str) -> list[str]:
    """'a.png; b.png'; a data URI holds a semicolon of its own and stands alone."""
    return [text] if text.startswith("data:") else [part.strip() for part in text.split(";") if part.strip()]


def _jsonl_rows(path: Path, text: str) -> Iterator[_Row]:
    # split, not splitlines: JSON strings may hold U+2028 as it is.
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            yield _json_row(f"{path.name} line {number}", line, path.parent)


def _json_row(where: str, line: str, folder: Path) -> _Row:
    row = _Row(where, {}, folder)
    try:
        value = json.loads(line)
    except ValueError as error:
        row.faults.append(f"not JSON: {error}")
        return row
    if isinstance(value, dict) and set(value) == {"input"}:
        value = value["input"]
    if not isinstance(value, dict):
        row.faults.append("not a JSON object")
        return row
    row.faults += unknown(list(value))
    images = value.pop("images", value.pop("image", None))
    if images is not None:
        value["images"] = [images] if isinstance(images, str) else images
    row.values = value
    return row


def _planned(position: int, row: _Row, defaults: Mapping[str, Any], look: Look) -> Planned | None:
    """The row as a job; None where it has faults, which are then listed in the row."""
    if row.faults:
        return None
    given = {**defaults, **row.values}
    images, digests = _images(row, given.pop("images", None), look)
    fields = {name: given[name] for name in FIELDS if given.get(name) is not None}
    if "prompt" not in fields:
        row.faults.append("there is no prompt; give one in the row or with --prompt")
    if not row.faults:
        _check(row, images, fields)
    if row.faults:
        return None
    text = json.dumps({"images": digests, **fields}, sort_keys=True)
    return Planned(position, row.where, tuple(images), fields, hashlib.sha256(text.encode()).hexdigest())


def _check(row: _Row, images: list[str], fields: Mapping[str, Any]) -> None:
    if fields.get("type", "image_edit") != "image_edit":
        row.faults.append(f"type must be image_edit, got {fields['type']!r}")
        return
    try:
        parse({**fields, "images": images}, GENEROUS)
    except BadJob as error:
        row.faults.append(error.message)


def _images(row: _Row, images: Any, look: Look) -> tuple[list[str], list[str]]:
    """(addresses and absolute paths, addresses and content hashes); faults go to the row."""
    if not isinstance(images, list) or not images or not all(isinstance(image, str) for image in images):
        row.faults.append("there is no image")
        return [], []
    resolved, digests = [], []
    for image in images:
        if is_address(image):
            resolved.append(image)
            digests.append(image)
            continue
        path = (row.folder / Path(image).expanduser()).absolute()
        digest, fault = look(path)
        resolved.append(str(path))
        digests.append(digest)
        if fault:
            row.faults.append(f"{image}: {fault}")
    return resolved, digests


def _look(path: Path) -> tuple[str, str]:
    """(SHA-256, "") of a picture, or what is wrong with it."""
    try:
        with path.open("rb") as file:
            head = file.read(16)
            file.seek(0)
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        return "", error.strerror or "cannot be read"
    known = media_type(head) is not None
    return digest, "" if known else "this is not a PNG, JPEG, WebP, GIF, BMP or TIFF picture"
