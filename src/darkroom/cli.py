"""`darkroom …`: one command per use; each command's file is imported when it runs, so that --help is quick."""

from __future__ import annotations

import typer

from darkroom.cli_batch import batch
from darkroom.cli_bench import benches
from darkroom.cli_bridge import bridge
from darkroom.cli_doctor import doctor
from darkroom.cli_edit import edit
from darkroom.cli_endpoint import endpoint
from darkroom.cli_generate import generate
from darkroom.cli_inject import inject
from darkroom.cli_pack import pack
from darkroom.cli_pocket import pocket
from darkroom.cli_video import video

EPILOG = (
    "Exit codes: 0 all good · 1 a job or check failed · 2 wrong usage · 3 endpoint unreachable or key refused · "
    "130 interrupted."
)

app = typer.Typer(
    name="darkroom",
    help="Edit pictures by instruction with the Qwen-Image-Edit family, on RunPod or on this machine.",
    epilog=EPILOG,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command()(edit)
app.command()(generate)
app.command()(video)
app.add_typer(inject, name="inject")
app.add_typer(bridge, name="bridge")
app.command()(batch)
app.command()(endpoint)
app.add_typer(benches, name="bench")
app.command()(pack)
app.command()(doctor)
app.add_typer(pocket, name="pocket")


def main() -> None:
    """The console script."""
    app()


if __name__ == "__main__":
    main()
