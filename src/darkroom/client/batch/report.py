"""A batch for programs and spreadsheets: results.jsonl and errors.csv."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from pathlib import Path

from darkroom.client.batch.ledger import Entry
from darkroom.client.batch.plan import Planned
from darkroom.client.download import write_atomically

ERROR_COLUMNS = ("where", "image", "prompt", "code", "retryable", "message", "job_id")


def write_reports(plan: Sequence[Planned], entries: Sequence[Entry], out: Path) -> None:
    """results.jsonl has one line per finished job; errors.csv exists only while there are errors."""
    pairs = list(zip(plan, entries, strict=True))
    lines = [json.dumps(_result(planned, entry), ensure_ascii=False)
             for planned, entry in pairs if entry.state == "done"]
    write_atomically(out / "results.jsonl", "".join(f"{line}\n" for line in lines).encode())
    failed = [(planned, entry) for planned, entry in pairs if entry.state in ("done", "failed") and entry.faults]
    errors = out / "errors.csv"
    if failed:
        write_atomically(errors, _errors(failed).encode())
    else:
        errors.unlink(missing_ok=True)


def _result(planned: Planned, entry: Entry) -> dict[str, object]:
    return {
        "position": planned.position,
        "where": planned.where,
        "images": [_shown(image) for image in planned.images],
        "fields": dict(planned.fields),
        "job_id": entry.job_id,
        "files": entry.files,
        "seconds": entry.seconds,
        "usd": (entry.reply or {}).get("cost", {}).get("usd"),
        "reply": entry.reply,
    }


def _errors(failed: Sequence[tuple[Planned, Entry]]) -> str:
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(ERROR_COLUMNS)
    for planned, entry in failed:
        images = ";".join(_shown(image) for image in planned.images)
        for fault in entry.faults:
            message = fault.get("message") or fault.get("error")
            writer.writerow([planned.where, images, fault.get("prompt", planned.prompt), fault.get("code"),
                             fault.get("retryable"), message, entry.job_id])
    return text.getvalue()


def _shown(image: str) -> str:
    """A data URI is too long to read."""
    return f"{image[:40]}…" if image.startswith("data:") else image
