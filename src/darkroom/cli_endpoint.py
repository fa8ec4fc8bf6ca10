"""`darkroom endpoint`: a RunPod endpoint on this machine."""

from __future__ import annotations

import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated
from urllib.parse import unquote, urlsplit

import typer

from darkroom.cli_options import SOME_FAILED, fail, told


class Scaler(StrEnum):
    """When a worker is added; the platform's two ways."""

    request_count = "request_count"
    queue_delay = "queue_delay"


def folder_of(store: str) -> Path | None:
    """The folder that a value of DARKROOM_STORE means, a path or a file:// URL; None for a bucket.

    Raises ValueError.
    """
    scheme, mark, rest = store.partition("://")
    if mark and (scheme not in ("file", "s3") or not rest.strip("/")):
        raise ValueError("--store (DARKROOM_STORE) is a folder, a file:// URL or s3://bucket/prefix")
    if mark and scheme == "s3":
        return None
    return Path(unquote(urlsplit(store).path)) if mark else Path(store)


def endpoint(
    host: Annotated[str, typer.Option(help="Any other address than this machine's own needs --api-key.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="0 takes a free one.")] = 8000,
    workers: Annotated[int, typer.Option(help="Most worker processes at a time.")] = 1,
    workers_min: Annotated[int, typer.Option(help="Workers kept warm without any job.")] = 0,
    idle_timeout: Annotated[float, typer.Option(help="Seconds after which an idle worker stops.")] = 60.0,
    execution_timeout: Annotated[float, typer.Option(help="Seconds for a job without a policy of its own.")] = 7_500.0,
    api_key: Annotated[str | None, typer.Option(envvar="DARKROOM_API_KEY",
                                                help="Required of clients when set.")] = None,
    scaler: Annotated[Scaler, typer.Option(help="Add workers by the number of jobs or by how long they wait."
                                           )] = Scaler.request_count,
    scaler_value: Annotated[float, typer.Option(help="Jobs per worker, or seconds that a job may wait.")] = 1.0,
    store: Annotated[str, typer.Option(envvar="DARKROOM_STORE",
                                       help="Folder of results, served under /files/, or s3://bucket/prefix."
                                       )] = "results",
    data: Annotated[Path, typer.Option(help="Folder of the queue and the workers' logs.")] = Path("results/.endpoint"),
    public_url: Annotated[str | None, typer.Option(envvar="DARKROOM_PUBLIC_URL",
                                                   help="Address under which clients reach this endpoint; needs "
                                                        "--api-key unless it is this machine's own.")] = None,
    handler: Annotated[Path, typer.Option(help="The worker to start.")] = Path("handler.py"),
) -> None:
    """Run RunPod's API v2 on this machine: queue, worker processes, playground.

    Submit to http://127.0.0.1:8000/v2/local, the default of every other command.
    """
    with told():
        if not handler.is_file():
            raise FileNotFoundError(f"there is no worker at {handler}; run this in the project's folder, or --handler")
        from pydantic import SecretStr

        from darkroom.local import CannotStart, EndpointConfig, serve

        folder = folder_of(store)
        config = EndpointConfig(
            command=(sys.executable, str(handler.resolve())), host=host, port=port, workers_max=workers,
            workers_min=workers_min, idle_timeout_seconds=idle_timeout, public_url=public_url,
            execution_timeout_seconds=execution_timeout, store=folder, data=data,
            # A bucket is the workers' own affair: their environment names its server and keys.
            env={"DARKROOM_STORE": store} if folder is None else {},
            scaler=scaler.value, scaler_value=scaler_value,
            api_key=SecretStr(api_key) if api_key else None,
        )
        try:
            serve(config, ready=lambda address: typer.echo(f"{address}/v2/{config.endpoint_id}"))
        except CannotStart as error:
            raise fail(str(error), SOME_FAILED) from None
