"""`make demo`: a real photo and two drawn scenes edited through the local endpoint with the pocket model.

The whole path that a deployment takes: HTTP submission, queue, a worker process under the RunPod SDK, the engine,
the store, a link, a verified download. Prints where the before/after picture is.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from darkroom.client import Client, ClientError, JobStatus
from darkroom.local import CannotStart, EndpointConfig, running

ROOT = Path(__file__).resolve().parents[1]
OUT = Path("results/demo")
HEIGHT = 256
GAP = 12
PATIENCE_SECONDS = 300.0
"""For one edit, the start of the worker included; it takes seconds."""


@dataclass(frozen=True)
class Show:
    """One edit of the demo."""

    source: Path
    prompt: str
    seed: int = 7


SHOWS = (
    Show(ROOT / "examples" / "photo.jpg", "make it black and white"),
    Show(ROOT / "examples" / "scene.png", "remove the ring"),
    Show(ROOT / "examples" / "sign.png", 'write "OPEN"'),
)


class NoWorker(Exception):
    """The worker ends before it takes a job, and the next one would too; says why."""


def main() -> None:
    """Start an endpoint, edit, and leave results/demo/before_after.png; or say what is wrong and exit with 1."""
    try:
        demo(ROOT / "handler.py")
    except (NoWorker, CannotStart, ClientError) as error:
        sys.exit(f"\nthe demo ends here: {error}\nThe worker's log is in {OUT / '.endpoint' / 'logs'}")


def demo(handler: Path) -> None:
    """The whole demo with this worker. Raises NoWorker, CannotStart, ClientError."""
    config = EndpointConfig(
        command=(sys.executable, str(handler)),
        env={"DARKROOM_PROFILE": "pocket", "DARKROOM_PROGRESS_SECONDS": "0.1"},
        data=OUT / ".endpoint",
        store=OUT / "store",
        port=0,
    )
    print("starting a RunPod endpoint on this machine; its worker loads the pocket model …", flush=True)
    with running(config) as address, Client(f"{address}/v2/local") as client:
        rows = [(show.source, edited(client, show)) for show in SHOWS]
    sheet = before_after(rows)
    print(f"\nbefore and after: {sheet.resolve()}")


def edited(client: Client, show: Show) -> Path:
    """Submit, follow the steps, download, tell the timings."""
    print(f"\n{show.source.name}: “{show.prompt}”")
    reply = client.edit([show.source], show.prompt, seed=show.seed, progress=follow, timeout_seconds=PATIENCE_SECONDS)
    path = client.download(reply.images[0], OUT / f"{show.source.stem}.png")
    phases = {name.removesuffix("_ms"): ms for name, ms in reply.timings.items() if name.endswith("_ms")}
    print("\r  " + ", ".join(f"{name} {ms / 1000:.2f} s" for name, ms in phases.items()))
    for warning in reply.warnings:
        print(f"  note: {warning}")
    print(f"  seed {reply.seed}, {reply.images[0].width} × {reply.images[0].height}, {path.resolve()}")
    return path


def follow(status: JobStatus) -> None:
    """The step the worker is at, on one line. Raises NoWorker where no worker takes the job."""
    if status.problem:
        raise NoWorker(f"no worker takes the job: {status.problem}")
    progress = status.output if isinstance(status.output, dict) else {}
    said = f"{progress['stage']} {progress['done']}/{progress['total']}" if "stage" in progress else status.status
    print(f"\r  {said:<40}", end="", flush=True)


def before_after(rows: list[tuple[Path, Path]]) -> Path:
    """One sheet: inputs on the left, results on the right."""
    pictures = [[at_height(path) for path in row] for row in rows]
    width = max(sum(p.width for p in row) + GAP * (len(row) - 1) for row in pictures)
    sheet = Image.new("RGB", (width, len(rows) * (HEIGHT + GAP) - GAP), "white")
    for line, row in enumerate(pictures):
        left = 0
        for picture in row:
            sheet.paste(picture, (left, line * (HEIGHT + GAP)))
            left += picture.width + GAP
    path = OUT / "before_after.png"
    sheet.save(path)
    return path


def at_height(path: Path) -> Image.Image:
    """A picture at the sheet's height."""
    with Image.open(path) as picture:
        width = round(picture.width * HEIGHT / picture.height)
        return picture.convert("RGB").resize((width, HEIGHT), Image.Resampling.LANCZOS)


if __name__ == "__main__":
    main()
