"""`darkroom bridge evaluate | ocr | spatial | detail | consistency | marks`: what a bridge is worth, with a report."""

from __future__ import annotations

import json
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from darkroom.cli_options import ApiKeyOption, EndpointOption, RunpodKeyOption, own_key, told
from darkroom.client import LOCAL_ENDPOINT, JobReply

FIELDS = "Fields of bridge_evaluate"
REPORT = "full_evaluation/report.html"


class LanguageName(StrEnum):
    """Tesseract's codes."""

    eng = "eng"
    fra = "fra"
    deu = "deu"
    chi_sim = "chi_sim"


OutOption = Annotated[Path, typer.Option("--out", "-o", help="Folder of the result.")]
BridgeOption = Annotated[str | None, typer.Option(help="A stored bridge's key, or untrained; the profile's own without "
                                                  "it.", rich_help_panel=FIELDS)]  # fmt: skip
CasesOption = Annotated[int | None, typer.Option(help="Per suite.", rich_help_panel=FIELDS)]
SeedsOption = Annotated[int | None, typer.Option(help="Per case.", rich_help_panel=FIELDS)]
StepsOption = Annotated[int | None, typer.Option("--steps", "--num-inference-steps", rich_help_panel=FIELDS)]
CfgOption = Annotated[float | None, typer.Option("--cfg", "--true-cfg-scale", rich_help_panel=FIELDS)]
SeedOption = Annotated[int | None, typer.Option(help="The first one.", rich_help_panel=FIELDS)]
LanguageOption = Annotated[list[LanguageName] | None, typer.Option("--language", help="Of the texts; may be repeated.",
                                                                   rich_help_panel=FIELDS)]  # fmt: skip
JsonOption = Annotated[bool, typer.Option("--json", help="Print the reply as JSON, for scripts.")]
TimeoutOption = Annotated[float | None, typer.Option(help="Seconds to wait; the job itself goes on.")]


def evaluate(
    out: OutOption = Path("evaluation"),
    bridge: BridgeOption = None,
    suite: Annotated[list[str] | None, typer.Option("--suite", help="May be repeated; all without it.",
                                                    rich_help_panel=FIELDS)] = None,
    cases: CasesOption = None,
    seeds: SeedsOption = None,
    language: LanguageOption = None,
    steps: StepsOption = None,
    cfg: CfgOption = None,
    seed: SeedOption = None,
    as_json: JsonOption = False,
    timeout: TimeoutOption = None,
    endpoint: EndpointOption = LOCAL_ENDPOINT,
    api_key: ApiKeyOption = None,
    runpod_api_key: RunpodKeyOption = None,
) -> None:
    """Score baseline and bridge on generated edits: text, place, detail, consistency, marks.

    darkroom bridge evaluate --bridge job-1/checkpoints/bridge.safetensors -o evaluation/
    """
    fields = {
        "bridge": bridge, "suites": suite, "cases": cases, "seeds": seeds,
        "languages": [name.value for name in language] if language else None,
        "num_inference_steps": steps, "true_cfg_scale": cfg, "seed": seed,
    }  # fmt: skip
    with told():
        key = own_key(endpoint, api_key, runpod_api_key)
        reply = run_evaluation(fields, out, timeout, endpoint, key)
    _tell(reply, out, as_json)


def _one_suite(name: str, purpose: str) -> Any:
    """The command that tests one suite alone."""

    def command(
        out: OutOption = Path("evaluation"),
        bridge: BridgeOption = None,
        cases: CasesOption = None,
        seeds: SeedsOption = None,
        steps: StepsOption = None,
        cfg: CfgOption = None,
        seed: SeedOption = None,
        as_json: JsonOption = False,
        timeout: TimeoutOption = None,
        endpoint: EndpointOption = LOCAL_ENDPOINT,
        api_key: ApiKeyOption = None,
        runpod_api_key: RunpodKeyOption = None,
    ) -> None:
        evaluate(out, bridge, [name], cases, seeds, None, steps, cfg, seed, as_json, timeout, endpoint, api_key,
                 runpod_api_key)  # fmt: skip

    command.__doc__ = f"{purpose} One suite of `evaluate`."
    return command


SUITE_COMMANDS = {
    "ocr": "Change words, and read the result with Tesseract.",
    "spatial": "Move shapes, and measure where they end.",
    "detail": "Recolour a shape, and measure what became of everything else.",
    "consistency": "Edit several pictures of one subject alike, and compare the subject in them.",
    "marks": "Follow a small mark that only the vision encoders see.",
}


def add_to(bridge: typer.Typer) -> None:
    """Put `evaluate` and a command for each suite into `darkroom bridge`."""
    bridge.command()(evaluate)
    for name, purpose in SUITE_COMMANDS.items():
        bridge.command(name)(_one_suite(name, purpose))


def run_evaluation(
    fields: dict[str, Any], folder: Path, timeout: float | None, endpoint: str, api_key: str | None
) -> JobReply:
    """Submit, wait, and fetch every file into `folder`. Raises ValueError where the store makes no links."""
    from darkroom.cli_job import by_endpoint
    from darkroom.client.request import evaluate_input

    return by_endpoint(evaluate_input(fields), folder, timeout, endpoint, api_key)


def _tell(reply: JobReply, folder: Path, as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps({**reply.model_dump(mode="json"), "folder": str(folder)}, indent=2))
        return
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD)
    for column in ("suite", "measure", "ceiling", "baseline", "enhanced", "difference", "95 %"):
        table.add_column(column, justify="left" if column in ("suite", "measure") else "right")
    for suite, rulers in (reply.model_extra or {})["scores"].items():
        for name, outcome in rulers.items():
            low, high = outcome["interval_95"]
            arrow = "↑" if outcome["better"] == "higher" else "↓"
            values = [f"{outcome[key]:.3f}" for key in ("ceiling", "baseline", "enhanced")]
            gap = f"{outcome['difference']:+.3f}", f"{low:+.3f} … {high:+.3f}"
            table.add_row(suite, f"{name} {arrow}", *values, *gap)
    Console().print(table)
    typer.echo(str(folder / REPORT))
    for warning in reply.warnings:
        typer.secho(f"warning: {warning}", err=True, fg=typer.colors.YELLOW)
