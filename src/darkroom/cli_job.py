"""One job of a command: by an endpoint or in this process, its files fetched into a folder, its reply told."""

from __future__ import annotations

import json
import shutil
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from darkroom.client import Client, JobReply

LocalOption = Annotated[bool, typer.Option("--local", help="Without an endpoint.", rich_help_panel="In this process")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print the reply as JSON, for scripts.")]
TimeoutOption = Annotated[float | None, typer.Option(help="Seconds to wait; the job itself goes on.")]

JOB = "job"
MANIFEST = "manifest.json"


def by_endpoint(
    request: Mapping[str, Any], folder: Path, timeout: float | None, endpoint: str, api_key: str | None,
    wanted: str = "",
) -> JobReply:  # fmt: skip
    """Submit, wait, and fetch the files whose names begin with `wanted`. Raises ValueError where there are no links.

    The same request with the same `folder` goes on where an interrupted one stopped (`resumable`).
    """
    from darkroom.cli_edit import taken_back
    from darkroom.cli_progress import watching
    from darkroom.cli_resume import resumable
    from darkroom.client import Polling, Retry
    from darkroom.client.clips import missing

    polling = Polling(most_seconds=1.5)
    with (
        resumable(request, folder) as keyed,
        Client(endpoint, api_key=api_key, retry=Retry(attempts=4), polling=polling) as client,
    ):
        with watching(False) as progress, taken_back(client, progress) as noted:
            reply = client.run(keyed, progress=noted, timeout_seconds=timeout)
        for file, path in missing(reply, folder):
            if not file.name.startswith(wanted):
                continue
            if file.url is None:
                raise ValueError("the endpoint's store makes no links and the files fit no reply; their keys are in it")
            client.download(file, path)
    return reply


def in_this_process(
    request: Mapping[str, Any], folder: Path, wanted: str = "", stored: Mapping[str, Path] | None = None
) -> JobReply:
    """Run the job here, on a store within `folder`; an interrupted job goes on there.

    wanted: as `by_endpoint`. stored: files that the job finds in the store, by their keys.
    """
    import asyncio

    from darkroom.client.errors import JobFailed
    from darkroom.service import Service
    from darkroom.settings import Settings

    store = folder / ".darkroom"
    for key, file in (stored or {}).items():
        (store / key).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, store / key)
    service = Service(Settings(store=str(store), spool=store / ".spool", public_url=store.resolve().as_uri()))
    with _bar() as send:
        answer = asyncio.run(service.handle({"id": JOB, "input": dict(request)}, send))
    if "error" in answer:
        message = str(answer["error"]).partition(": ")[2]
        raise JobFailed(message, job_id=JOB, code=str(answer["code"]), retryable=bool(answer["retryable"]))
    manifest = json.loads((store / JOB / MANIFEST).read_text())
    for name in (*(entry["name"] for entry in manifest["files"]), MANIFEST):
        if name.startswith(wanted):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.move(store / JOB / name, folder / name)
    shutil.rmtree(store)
    return JobReply.model_validate(answer)


def stored_keys(reply: JobReply, name: str) -> list[str]:
    """The line that names the key of the file `name` in the endpoint's store, for other jobs; none without the file."""
    return [f"key: {file['key']}" for file in (reply.model_extra or {})["files"] if file["name"] == name]


def tell(reply: JobReply, lines: Sequence[str], as_json: bool) -> None:
    """The lines with timings and cost, or the whole reply as JSON; warnings on stderr."""
    from darkroom.cli_text import cost_text, timings_text

    if as_json:
        typer.echo(json.dumps(reply.model_dump(mode="json"), indent=2))
        return
    for line in (*lines, timings_text(reply.timings), cost_text(reply.cost)):
        typer.echo(line)
    for warning in reply.warnings:
        typer.secho(f"warning: {warning}", err=True, fg=typer.colors.YELLOW)


@contextmanager
def _bar() -> Iterator[Callable[[dict[str, Any]], Awaitable[None]]]:
    """A callback for a job's progress, shown on stderr with the loss where one is told."""
    from rich.console import Console
    from rich.progress import Progress

    from darkroom.cli_progress import steps_of

    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("starting", total=None)

        async def send(payload: dict[str, Any]) -> None:
            done, total = steps_of(payload)
            loss = f" loss {payload['loss']:.4f}" if "loss" in payload else ""
            bar.update(task, description=f"{payload.get('stage', '')}{loss}", completed=done or 0, total=total)

        yield send
