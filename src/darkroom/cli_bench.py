"""`darkroom bench`: cold and warm latency of an endpoint; other studies are its subcommands."""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
import tempfile
from collections.abc import AsyncIterator
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from darkroom.cli_bench_bridge import bridge
from darkroom.cli_bench_injection import injection
from darkroom.cli_bench_ttlg import ttlg
from darkroom.cli_options import SOME_FAILED, ApiKeyOption, RunpodKeyOption, own_key, told

benches = typer.Typer(invoke_without_command=True)
benches.command()(ttlg)
benches.command()(bridge)
benches.command()(injection)


@benches.callback()
def bench(
    context: typer.Context,
    cold: Annotated[int, typer.Option(min=0, help="Cold starts: jobs that wait for a worker to boot.")] = 3,
    warm: Annotated[int, typer.Option(min=0, help="Warm jobs.")] = 20,
    concurrency: Annotated[int, typer.Option("--concurrency", "-c", min=1, help="Warm jobs at a time.")] = 1,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Folder; bench/results/<time> by default.")] = None,
    compare: Annotated[Path | None, typer.Option(help="An older report.json: print how many times as long.")] = None,
    card: Annotated[list[str] | None, typer.Option(help="Price the run for this card (L4, A100, …).")] = None,
    image: Annotated[Path | None, typer.Option(help="Picture to edit; a drawn one by default.")] = None,
    prompt: Annotated[str, typer.Option("--prompt", "-p")] = "make the circle green",
    settings: Annotated[list[str] | None, typer.Option(
        "--set", metavar="FIELD=VALUE", help="A field of image_edit; repeatable.")] = None,
    same_picture: Annotated[bool, typer.Option("--same-picture", help="Let caches of encodings help.")] = False,
    workers: Annotated[int | None, typer.Option(help="Workers of the endpoint started here; -c by default.")] = None,
    handler: Annotated[Path, typer.Option(help="The worker of the endpoint started here.")] = Path("handler.py"),
    engine: Annotated[bool, typer.Option(
        "--engine", help="First the engine beside diffusers on this machine; with --cold 0 --warm 0 only that.")]
    = False,
    idle_timeout: Annotated[float, typer.Option(
        min=0.0, help="Seconds without jobs after which a running endpoint's workers are gone.")] = 70.0,
    endpoint: Annotated[str | None, typer.Option(
        "--endpoint", "-e", envvar="DARKROOM_ENDPOINT", metavar="URL|ID", rich_help_panel="Endpoint",
        help="An endpoint that runs already; without it fresh ones are started here.")] = None,
    api_key: ApiKeyOption = None,
    runpod_api_key: RunpodKeyOption = None,
) -> None:
    """Measure cold starts and warm jobs; write JSON, a Markdown table and plots.

    darkroom bench --cold 3 --warm 20
    """
    from darkroom.cli_batch import defaults_of

    if context.invoked_subcommand:
        return
    out = out or Path("bench/results") / datetime.now().strftime("%Y%m%d-%H%M%S")
    with told():
        if engine:
            _engine(image, handler, out)
        if engine and cold == warm == 0:
            return
        fields = defaults_of(None, settings or [])
        key = own_key(endpoint, api_key, runpod_api_key) if endpoint else None
        report = _bench(
            cold=cold, warm=warm, concurrency=concurrency, image=image, prompt=prompt, fields=fields,
            same_picture=same_picture, compare=compare, cards=card or [], endpoint=endpoint, api_key=key,
            idle_timeout=idle_timeout, workers=workers or concurrency, handler=handler, out=out,
        )
    if report["cold"]["failed"] or report["warm"]["failed"]:
        raise typer.Exit(SOME_FAILED)


def _bench(
    *, cold: int, warm: int, concurrency: int, image: Path | None, prompt: str, fields: dict[str, Any],
    same_picture: bool, compare: Path | None, cards: list[str], endpoint: str | None, api_key: str | None,
    idle_timeout: float, workers: int, handler: Path, out: Path,
) -> dict[str, Any]:
    from darkroom.bench.compare import ratios, read_report
    from darkroom.bench.endpoint import Plan, measure, remote, write
    from darkroom.bench.machine import commit, machine
    from darkroom.bench.prices import price_of, prices
    from darkroom.bench.report import Setup, markdown, summarise
    from darkroom.client import endpoint_url

    plan = Plan(cold, warm, concurrency, prompt, image, same_picture, fields)
    # Mistakes are told before minutes are spent on measuring.
    old = read_report(compare) if compare else None
    for card in cards:
        price_of(card)
    fresh = remote(endpoint_url(endpoint), api_key, idle_timeout, cold == 0) if endpoint else _local(handler, workers)
    samples, warmed = asyncio.run(measure(plan, fresh, api_key, _tell))
    gpu = next((sample.gpu for sample in [*samples, *warmed.samples] if sample.gpu), None)
    where = endpoint_url(endpoint) if endpoint else f"local, {workers} workers"
    setup = Setup(where, commit(), machine(), plan.settings())
    report = summarise(setup, samples, warmed, prices(cards, gpu))
    files = write(report, out)
    typer.echo(markdown(report))
    if old is not None:
        typer.echo(ratios(old, report))
    for file in files:
        typer.echo(str(file))
    return report


def _engine(image: Path | None, handler: Path, out: Path) -> None:
    """The profile's edit model by our loop and by diffusers' pipeline; engine.json and engine.md in `out`."""
    from darkroom.bench.cpu import page, whole
    from darkroom.bench.picture import load

    result = whole(load(image), handler)
    text = page(result)
    out.mkdir(parents=True, exist_ok=True)
    (out / "engine.json").write_text(json.dumps(result, indent=1, allow_nan=False) + "\n", "utf-8")
    (out / "engine.md").write_text(text, "utf-8")
    typer.echo(text)


def _tell(sample: Any) -> None:
    state = sample.error or f"{sample.wall_ms:.0f} ms"
    typer.secho(f"{sample.kind} job: {state}", err=True, dim=True)


def _local(handler: Path, workers: int) -> Any:
    """A new endpoint on this machine for every cold start: a new queue, no worker yet."""
    if not handler.is_file():
        raise FileNotFoundError(f"there is no worker at {handler}; run this in the project's folder, or --handler")
    from darkroom.local import EndpointConfig, running

    @contextlib.asynccontextmanager
    async def fresh() -> AsyncIterator[str]:
        with tempfile.TemporaryDirectory(prefix="darkroom-bench-") as folder:
            config = EndpointConfig(
                command=(sys.executable, str(handler.resolve())), port=0, workers_max=workers,
                idle_timeout_seconds=600.0, data=Path(folder) / "endpoint", store=Path(folder) / "store",
                drain_seconds=1.0,
            )
            with running(config) as address:
                yield f"{address}/v2/{config.endpoint_id}"

    return fresh
