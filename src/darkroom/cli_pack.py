"""`darkroom pack`: a checkpoint becomes one packed artifact, quantised and checksummed, for quick cold starts."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from darkroom.cli_options import USAGE, fail, told
from darkroom.settings import PrecisionName, ProfileName

Progress = Callable[[str, int, int], None]


class Role(StrEnum):
    """What a packed model is for."""

    edit = "edit"
    video = "video"
    image = "image"


def pack(
    source: Annotated[
        str, typer.Argument(help="A checkpoint in diffusers' layout: a folder, or an id on Hugging Face.")
    ],
    out: Annotated[Path | None, typer.Argument(help="The artifact's folder: new or empty.", show_default=False)] = None,
    profile: Annotated[
        ProfileName, typer.Option("--profile", "-p", help="The class of card that will load it; auto takes this one's.")
    ] = "auto",
    precision: Annotated[
        PrecisionName | None,
        typer.Option(envvar="DARKROOM_PRECISION", help="In the place of the profile's own.", show_default=False),
    ] = None,
    role: Annotated[
        Role, typer.Option(help="What it will be used for: image is Qwen-Image, which makes pictures from text alone.")
    ] = Role.edit,
    revision: Annotated[str | None, typer.Option(help="Revision of a model on Hugging Face.")] = None,
    verify: Annotated[
        bool, typer.Option("--verify", help="Only check SOURCE, a packed artifact, against its checksums.")
    ] = False,
) -> None:
    """Pack a checkpoint for a class of card; DARKROOM_EDIT_MODEL (or the role's) then names the folder.

    Weights are stored as the profile computes with them (l4: FP8 with a scale per row), and what a cold start does not
    need lies apart. It is written beside OUT and renamed at the end: a pack that was interrupted, or whose disk filled
    up, is never loaded, and the same command goes on with the files that it had finished. `darkroom pack --verify
    FOLDER` reads all of an artifact and names a damaged file.
    """
    if verify and out is not None:
        raise fail("--verify takes one folder, the artifact", USAGE)
    with told(), _bar() as progress:
        if verify:
            _checked(Path(source), progress)
            return
        if out is None:
            raise ValueError("OUT is missing: darkroom pack SOURCE OUT --profile l4")
        manifest = _packed(source, revision, role, out, profile, precision, progress)
    typer.echo(f"{out}: {manifest.precision} for profile {manifest.profile}")
    typer.echo(_sizes(manifest))
    typer.echo(f"use it: DARKROOM_{role.upper()}_MODEL={out.resolve()}")


def _packed(
    source: str,
    revision: str | None,
    role: Role,
    out: Path,
    profile: ProfileName,
    precision: PrecisionName | None,
    progress: Progress,
) -> Any:
    from darkroom.models import packing
    from darkroom.models.shelf import read_card
    from darkroom.models.specs import resolve
    from darkroom.settings import Settings

    settings = Settings()
    settings.export_hub_environment()
    asked = settings.model_copy(update={"profile": profile, "precision": precision})
    target = resolve(asked, read_card() if profile == "auto" else None)
    # The profile's own sizes and presets: tables are made for their schedules.
    spec = dataclasses.replace(target.models[role], repo=source, revision=revision)
    return packing.pack(spec, out, target.name, target.precision, progress, lambda said: typer.echo(said, err=True))


def _checked(folder: Path, progress: Progress) -> None:
    from darkroom.models import packing

    if not folder.is_dir():
        raise ValueError(f"{folder} is no folder")
    manifest = packing.verify(folder, progress)
    typer.echo(f"{folder}: {len(manifest.files)} files are as they were written ({manifest.precision})")


def _sizes(manifest: Any) -> str:
    """One line per section, in GB."""
    return "\n".join(f"  {name:<13} {manifest.size(name) / 1e9:8.3f} GB" for name in manifest.sections)


@contextmanager
def _bar() -> Iterator[Progress]:
    """Bytes done, on stderr, where that is a terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    with Bar(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("reading", total=None)

        def progress(what: str, done: int, total: int) -> None:
            bar.update(task, description=what, completed=done, total=total)

        yield progress
