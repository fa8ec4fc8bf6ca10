"""`darkroom endpoint`: a RunPod endpoint on this machine."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from darkroom.cli_options import SOME_FAILED, fail, told


def endpoint(
    host: Annotated[str, typer.Option(help="Any other address than this machine's own needs --api-key.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="0 takes a free one.")] = 8000,
    workers: Annotated[int, typer.Option(help="Most worker processes at a time.")] = 1,
    workers_min: Annotated[int, typer.Option(help="Workers kept warm without any job.")] = 0,
    idle_timeout: Annotated[float, typer.Option(help="Seconds after which an idle worker stops.")] = 60.0,
    execution_timeout: Annotated[float, typer.Option(help="Seconds a job may run unless its policy says so.")] = 600.0,
    api_key: Annotated[str | None, typer.Option(envvar="DARKROOM_API_KEY",
                                                help="Required of clients when set.")] = None,
    store: Annotated[Path, typer.Option(help="Folder of results, served under /files/.")] = Path("results"),
    data: Annotated[Path, typer.Option(help="Folder of the queue and the workers' logs.")] = Path("results/.endpoint"),
    public_url: Annotated[str | None, typer.Option(help="Address under which clients reach it.")] = None,
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

        config = EndpointConfig(
            command=(sys.executable, str(handler.resolve())), host=host, port=port, workers_max=workers,
            workers_min=workers_min, idle_timeout_seconds=idle_timeout, public_url=public_url,
            execution_timeout_seconds=execution_timeout, store=store, data=data,
            api_key=SecretStr(api_key) if api_key else None,
        )
        try:
            serve(config, ready=lambda address: typer.echo(f"{address}/v2/{config.endpoint_id}"))
        except CannotStart as error:
            raise fail(str(error), SOME_FAILED) from None
