"""The contact sheet: one HTML file with before, after, prompt, seed, seconds and dollars; needs no network."""

from __future__ import annotations

import base64
import hashlib
import html
import io
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import quote

from PIL import Image, ImageOps

from darkroom.client.batch.ledger import Entry
from darkroom.client.batch.plan import Planned
from darkroom.client.batch.runner import Summary
from darkroom.client.download import write_atomically
from darkroom.client.sources import from_data_uri

THUMBNAIL_PIXELS = 320
MOST_EMBEDDED = 200
"""Sheets of more rows keep their thumbnails in files: a page of 100 MB opens nowhere."""
THUMBNAILS = "thumbnails"

_STYLE = """
:root { color-scheme: light dark; --line: #8884; --soft: #8882; }
* { box-sizing: border-box }
body { font: 15px/1.45 system-ui, sans-serif; margin: 0 auto; padding: 2rem 1.25rem 4rem; max-width: 84rem }
h1 { font-size: 1.5rem; margin: 0 0 .25rem }
.sum { opacity: .75; margin: 0 0 2rem; font-variant-numeric: tabular-nums }
main { display: grid; gap: 1.25rem; grid-template-columns: repeat(auto-fill, minmax(min(100%, 26rem), 1fr)) }
article { border: 1px solid var(--line); border-radius: 12px; overflow: hidden; display: flex; flex-direction: column }
.pictures { display: grid; grid-template-columns: 1fr 1fr; gap: 1px; background: var(--soft) }
.side { display: grid; gap: 1px; align-content: start }
.many { grid-template-columns: 1fr 1fr } .many .view { height: 7.2rem }
figure { margin: 0; display: flex; flex-direction: column; min-width: 0 }
.view { height: 15rem; display: flex; align-items: center; justify-content: center; overflow: hidden }
.view a { display: block; width: 100%; height: 100% }
img { display: block; width: 100%; height: 100%; object-fit: contain }
figcaption, .none { font-size: .75rem; opacity: .7; padding: .25rem .6rem; overflow-wrap: anywhere }
.text { padding: .7rem .8rem .9rem; display: flex; flex-direction: column; gap: .4rem; flex: 1 }
.prompt { margin: 0; white-space: pre-wrap; overflow-wrap: anywhere }
.facts { margin: auto 0 0; font-size: .8rem; opacity: .75; font-variant-numeric: tabular-nums }
.failed { border-color: #c33 } .failed .facts { color: #c33; opacity: 1 }
@media print { article { break-inside: avoid } }
"""


def write_sheet(plan: Sequence[Planned], entries: Sequence[Entry], summary: Summary, out: Path) -> Path:
    """Write out/contact-sheet.html; thumbnails are inside it or beside it, pictures linked by relative path."""
    shelf = None if len(plan) <= MOST_EMBEDDED else out
    cards = "\n".join(_card(planned, entry, out, shelf) for planned, entry in zip(plan, entries, strict=True))
    page = (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>Contact sheet: {summary.done} of {summary.total}</title><style>{_STYLE}</style></head>\n"
        f"<body><h1>Contact sheet</h1><p class=sum>{html.escape(_headline(summary))}</p>\n"
        f"<main>\n{cards}\n</main></body></html>\n"
    )
    path = out / "contact-sheet.html"
    write_atomically(path, page.encode())
    return path


def _headline(summary: Summary) -> str:
    failed = f", {summary.failed} failed" if summary.failed else ""
    left = summary.total - summary.done - summary.failed
    pending = f", {left} not finished" if left else ""
    return f"{summary.done} of {summary.total} done{failed}{pending} · ${summary.usd:.4f}"


def _card(planned: Planned, entry: Entry, out: Path, shelf: Path | None) -> str:
    before = _side([_before(image, shelf) for image in planned.images])
    after = _side([_after(record, out, shelf) for record in entry.files] or [_nothing(entry)])
    state = " class=failed" if entry.faults else ""
    return (
        f"<article{state}><div class=pictures>{before}{after}</div><div class=text>"
        f"<p class=prompt>{html.escape(planned.prompt)}</p>"
        f"<p class=facts>{html.escape(_facts(planned, entry))}</p></div></article>"
    )


def _side(figures: list[str]) -> str:
    many = " many" if len(figures) > 1 else ""
    return f'<div class="side{many}">{"".join(figures)}</div>'


def _facts(planned: Planned, entry: Entry) -> str:
    if entry.state == "failed":
        error = entry.error or {}
        return f"#{planned.position} · {error.get('code')}: {error.get('message')}"
    seeds = [str(record["seed"]) for record in entry.files if record.get("seed") is not None]
    usd = ((entry.reply or {}).get("cost") or {}).get("usd")
    facts = [f"#{planned.position}"]
    facts += [f"seed {', '.join(seeds)}"] if seeds else []
    facts += [f"{entry.seconds:.2f} s"] if entry.seconds is not None else []
    facts.append("price unknown" if usd is None else f"${usd:.5f}")
    facts += [f"{fault.get('prompt')}: {fault.get('error')}" for fault in entry.faults]
    return " · ".join(facts)


def _before(image: str, shelf: Path | None) -> str:
    if image.startswith(("http://", "https://", "s3://")):
        return _figure(f"<span class=none>{html.escape(image.partition('?')[0])}</span>", "before")
    try:
        data = from_data_uri(image) if image.startswith("data:") else Path(image).read_bytes()
    except (OSError, ValueError):
        return _figure("<span class=none>no longer there</span>", "before")
    name = "before" if image.startswith("data:") else f"before · {Path(image).name}"
    return _figure(_view(data, None, shelf), name)


def _after(record: dict[str, object], out: Path, shelf: Path | None) -> str:
    file = str(record["file"])
    try:
        data = (out / file).read_bytes()
    except OSError:
        return _figure("<span class=none>no longer there</span>", "after")
    return _figure(_view(data, quote(file), shelf), f"after · {file}")


def _nothing(entry: Entry) -> str:
    return _figure(f"<span class=none>{html.escape(entry.state)}</span>", "after")


def _figure(view: str, caption: str) -> str:
    return f"<figure><div class=view>{view}</div><figcaption>{html.escape(caption)}</figcaption></figure>"


def _view(data: bytes, link: str | None, shelf: Path | None) -> str:
    try:
        address = _embedded(data) if shelf is None else _kept(data, shelf)
    except (OSError, ValueError, Image.DecompressionBombError):
        return "<span class=none>not readable as a picture</span>"
    image = f'<img alt="" loading=lazy src="{address}">'
    return f'<a href="{html.escape(link)}">{image}</a>' if link else image


def _embedded(data: bytes) -> str:
    return "data:image/webp;base64," + base64.b64encode(_thumbnail(data)).decode("ascii")


def _kept(data: bytes, shelf: Path) -> str:
    """A file named by the picture's content: made once, however often the sheet is written."""
    name = f"{THUMBNAILS}/{hashlib.sha256(data).hexdigest()[:24]}.webp"
    if not (shelf / name).is_file():
        write_atomically(shelf / name, _thumbnail(data))
    return name


def _thumbnail(data: bytes) -> bytes:
    with Image.open(io.BytesIO(data)) as picture:
        small = ImageOps.exif_transpose(picture)
        small.thumbnail((THUMBNAIL_PIXELS, THUMBNAIL_PIXELS))
        buffer = io.BytesIO()
        small.convert("RGBA").save(buffer, "WEBP", quality=80)
    return buffer.getvalue()
