"""`darkroom batch`: many edits from a list, resumable."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Annotated, Any

import typer

from darkroom.cli_options import (
    INTERRUPTED,
    OK,
    SOME_FAILED,
    USAGE,
    ApiKeyOption,
    EndpointOption,
    RunpodKeyOption,
    fail,
    own_key,
    told,
)
from darkroom.client.address import LOCAL_ENDPOINT


def batch(
    jobs: Annotated[Path, typer.Argument(help="A .csv, a .jsonl or a folder of pictures.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder of results, ledger and contact sheet.")],
    prompt: Annotated[str | None, typer.Option("--prompt", "-p", help="For rows without one.")] = None,
    settings: Annotated[list[str] | None, typer.Option(
        "--set", metavar="FIELD=VALUE", help="A field of image_edit for rows that leave it open; repeatable.")] = None,
    in_flight: Annotated[int, typer.Option("--in-flight", "-c", min=1, help="Jobs at a time.")] = 4,
    retry_failed: Annotated[bool, typer.Option(help="Run jobs again that failed for good in an earlier run.")] = False,
    endpoint: EndpointOption = LOCAL_ENDPOINT,
    api_key: ApiKeyOption = None,
    runpod_api_key: RunpodKeyOption = None,
) -> None:
    """Run many edits, several at a time; the same command goes on where an interrupted one stopped.

    A CSV has a column image (several separated by ;), a column prompt and any field of image_edit;
    a JSONL has one object of the same per line. Nothing is sent while the list has a fault.
    Writes the pictures, contact-sheet.html, results.jsonl and errors.csv.
    """
    with told():
        key = own_key(endpoint, api_key, runpod_api_key)
        code = _batch(jobs, out, defaults_of(prompt, settings or []), in_flight, retry_failed, endpoint, key)
    raise typer.Exit(code)


def defaults_of(prompt: str | None, settings: list[str]) -> dict[str, Any]:
    """Raises ValueError naming the field."""
    from darkroom.client.batch.fields import FIELDS, parse_text, unknown

    defaults: dict[str, Any] = {} if prompt is None else {"prompt": prompt}
    for setting in settings:
        name, equals, text = setting.partition("=")
        if not equals:
            raise ValueError(f"--set {setting}: give FIELD=VALUE")
        if name not in FIELDS:
            raise ValueError(f"--set {setting}: {(unknown([name]) or [f'{name} belongs to each row'])[0]}")
        if name == "idempotency_key":
            raise ValueError("--set idempotency_key: it must differ from row to row")
        defaults[name] = parse_text(name, text)
    return defaults


def _batch(
    jobs: Path, out: Path, defaults: dict[str, Any], in_flight: int, retry_failed: bool, endpoint: str,
    api_key: str | None,
) -> int:
    from darkroom.client.batch import Ledger, LedgerBusy, LedgerMismatch, LedgerUnwritable, read_plan

    plan = read_plan(jobs, defaults)
    try:
        ledger = Ledger(out / "ledger.sqlite")
    except (LedgerBusy, LedgerUnwritable) as error:
        raise fail(str(error), USAGE) from None
    try:
        return asyncio.run(_run(plan, ledger, out, in_flight, retry_failed, endpoint, api_key))
    except (LedgerMismatch, LedgerUnwritable) as error:
        raise fail(str(error), USAGE) from None
    except KeyboardInterrupt:
        raise fail("interrupted; the same command goes on from here and pays nothing twice", INTERRUPTED) from None
    finally:
        ledger.close()


async def _run(
    plan: Any, ledger: Any, out: Path, in_flight: int, retry_failed: bool, endpoint: str, api_key: str | None
) -> int:
    from darkroom.cli_batch_bar import bars
    from darkroom.client import AsyncClient, Retry
    from darkroom.client.batch import Batch
    from darkroom.client.batch.report import write_reports
    from darkroom.client.batch.sheet import write_sheet

    # A wrong address or key is told at once; an endpoint that was there and goes away is waited for.
    async with AsyncClient(endpoint, api_key=api_key, retry=Retry(attempts=3)) as client:
        await client.health()
    patient = Retry(attempts=7)
    async with AsyncClient(endpoint, api_key=api_key, retry=patient) as client:
        with bars(len(plan)) as (listen, progress):
            batch = Batch(plan, ledger, client, out, in_flight=in_flight, retry=patient,
                          retry_failed=retry_failed, listen=listen, progress=progress)
            try:
                summary = await batch.run()
            finally:
                write_reports(plan, batch.entries, out)
                sheet = write_sheet(plan, batch.entries, batch.summary(0.0), out)
    typer.echo(f"{summary.done} of {summary.total} done, {summary.failed} failed, ${summary.usd:.4f}, "
               f"{summary.seconds:.1f} s")
    typer.echo(str(sheet))
    if summary.failed:
        typer.echo(str(out / "errors.csv"))
    return SOME_FAILED if summary.failed else OK
