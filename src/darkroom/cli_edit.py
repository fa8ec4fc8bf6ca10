"""`darkroom edit`: one edit, from file to file."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from darkroom.cli_options import SOME_FAILED, ApiKeyOption, EndpointOption, RunpodKeyOption, own_key, told
from darkroom.client import LOCAL_ENDPOINT, Client, EditReply, JobStatus
from darkroom.client.batch.fields import parse_loras
from darkroom.client.protocol import Progress

FIELDS = "Fields of image_edit"
"""The help panel of options that the job itself takes; unset ones are left to the endpoint's preset."""


class Preset(StrEnum):
    """Speed against quality."""

    fast = "fast"
    balanced = "balanced"
    quality = "quality"


class Acceleration(StrEnum):
    """Steps that are extrapolated instead of computed: faster, and lossy."""

    none = "none"
    cache = "cache"
    aggressive = "aggressive"


class Format(StrEnum):
    """Of the result's file."""

    png = "png"
    webp = "webp"
    jpeg = "jpeg"


class Delivery(StrEnum):
    """How the result comes back."""

    auto = "auto"
    s3 = "s3"
    base64 = "base64"


def edit(
    images: Annotated[list[str], typer.Argument(metavar="IMAGE", help="One to three files or addresses.")],
    prompt: Annotated[list[str], typer.Option("--prompt", "-p", help="What to change; repeat for several results.")],
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Result file, or a folder.")] = None,
    watch: Annotated[bool, typer.Option("--watch", help="Show every step as the worker tells it.")] = False,
    compare: Annotated[bool, typer.Option("--compare", help="Also write before and after side by side.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the reply as JSON, for scripts.")] = False,
    timeout: Annotated[float | None, typer.Option(help="Seconds to wait; the job itself goes on.")] = None,
    preset: Annotated[Preset | None, typer.Option(rich_help_panel=FIELDS)] = None,
    steps: Annotated[int | None, typer.Option("--steps", "--num-inference-steps", rich_help_panel=FIELDS)] = None,
    cfg: Annotated[float | None, typer.Option("--cfg", "--true-cfg-scale", rich_help_panel=FIELDS)] = None,
    acceleration: Annotated[Acceleration | None, typer.Option(help="Lossy: extrapolate some of the steps.",
                                                              rich_help_panel=FIELDS)] = None,
    seed: Annotated[int | None, typer.Option(help="-1 draws one.", rich_help_panel=FIELDS)] = None,
    size: Annotated[str | None, typer.Option(help="match_input or 1024*1024.", rich_help_panel=FIELDS)] = None,
    negative_prompt: Annotated[str | None, typer.Option(rich_help_panel=FIELDS)] = None,
    num_images: Annotated[int | None, typer.Option(help="Results per prompt.", rich_help_panel=FIELDS)] = None,
    lora: Annotated[list[str] | None, typer.Option(help="PATH or PATH:SCALE.", rich_help_panel=FIELDS)] = None,
    output_format: Annotated[Format | None, typer.Option("--format", "--output-format", rich_help_panel=FIELDS)] = None,
    quality: Annotated[int | None, typer.Option("--quality", "--output-quality", rich_help_panel=FIELDS)] = None,
    delivery: Annotated[Delivery | None, typer.Option(rich_help_panel=FIELDS)] = None,
    expires_seconds: Annotated[int | None, typer.Option(rich_help_panel=FIELDS)] = None,
    idempotency_key: Annotated[str | None, typer.Option(help="The same key never pays twice.",
                                                        rich_help_panel=FIELDS)] = None,
    endpoint: EndpointOption = LOCAL_ENDPOINT,
    api_key: ApiKeyOption = None,
    runpod_api_key: RunpodKeyOption = None,
) -> None:
    """Edit a picture by instruction.

    darkroom edit photo.png -p "make the sky a sunset" --seed 7 --compare
    """
    fields = {
        "preset": preset, "num_inference_steps": steps, "true_cfg_scale": cfg, "seed": seed, "size": size,
        "acceleration": acceleration,
        "negative_prompt": negative_prompt, "num_images": num_images, "output_format": output_format,
        "output_quality": quality, "delivery": delivery, "expires_seconds": expires_seconds,
        "idempotency_key": idempotency_key, "loras": parse_loras(";".join(lora)) if lora else None,
    }
    plain = {name: value.value if isinstance(value, StrEnum) else value for name, value in fields.items()}
    with told():
        key = own_key(endpoint, api_key, runpod_api_key)
        _edit(images, prompt, plain, out, watch, compare, as_json, timeout, endpoint, key)


def _edit(
    images: list[str], prompts: list[str], fields: dict[str, Any], out: Path | None, watch: bool, compare: bool,
    as_json: bool, timeout: float | None, endpoint: str, api_key: str | None,
) -> None:
    from darkroom.cli_progress import watching
    from darkroom.client import Polling, Retry
    from darkroom.client.compare import write_comparison
    from darkroom.client.files import destinations

    prompt: str | list[str] = prompts[0] if len(prompts) == 1 else prompts
    # Workers tell their steps twice a second; who watches wants to see each.
    polling = Polling(most_seconds=0.25 if watch else 1.5)
    with Client(endpoint, api_key=api_key, retry=Retry(attempts=4), polling=polling) as client:
        with watching(watch) as progress, taken_back(client, progress) as noted:
            reply = client.edit(list(images), prompt, progress=noted, timeout_seconds=timeout, **fields)
        paths = destinations(reply, out, images[0])
        for picture, path in zip(reply.images, paths, strict=True):
            client.download(picture, path)
    comparison = write_comparison(images, paths) if compare else None
    finish(reply, paths, comparison, as_json)


def finish(reply: EditReply, paths: list[Path], comparison: Path | None, as_json: bool) -> None:
    """Say where the pictures are; exit with SOME_FAILED where a prompt could not run."""
    if as_json:
        files = [str(path) for path in paths]
        typer.echo(json.dumps({**reply.model_dump(mode="json"), "files": files}, indent=2))
    else:
        _tell(reply, paths, comparison)
    if reply.failed:
        raise typer.Exit(SOME_FAILED)


@contextmanager
def taken_back(client: Client, progress: Progress) -> Iterator[Progress]:
    """Ctrl-C cancels the job too: nobody would collect what it is paid for. Gives the callback to use."""
    jobs: list[str] = []

    def noted(status: JobStatus) -> None:
        jobs.append(status.id)
        progress(status)

    try:
        yield noted
    except KeyboardInterrupt:
        if jobs:
            client.cancel(jobs[-1])
            typer.secho(f"cancelled job {jobs[-1]}", err=True)
        raise


def _tell(reply: Any, paths: list[Path], comparison: Path | None) -> None:
    from darkroom.cli_text import cost_text, timings_text

    for picture, path in zip(reply.images, paths, strict=True):
        size = f"  {picture.width}×{picture.height}" if picture.width and picture.height else ""
        typer.echo(f"{path}  seed {picture.seed if picture.seed is not None else reply.seed}{size}")
    if comparison is not None:
        typer.echo(f"{comparison}  before and after")
    typer.echo(timings_text(reply.timings))
    typer.echo(cost_text(reply.cost))
    for fault in reply.failed:
        typer.secho(f"{fault.get('prompt')}: {fault.get('error')}", err=True, fg=typer.colors.RED)
    for warning in reply.warnings:
        typer.secho(f"warning: {warning}", err=True, fg=typer.colors.YELLOW)
