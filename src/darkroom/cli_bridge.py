"""`darkroom bridge compare | attention | extract | train`, with what `cli_bridge_evaluate` and the menu add."""

from __future__ import annotations

import json
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from darkroom import cli_bridge_evaluate
from darkroom.cli_bridge_menu import start
from darkroom.cli_edit import Preset
from darkroom.cli_job import JsonOption, LocalOption, TimeoutOption, by_endpoint, in_this_process, stored_keys, tell
from darkroom.cli_options import ApiKeyOption, EndpointOption, RunpodKeyOption, own_key, told
from darkroom.client import LOCAL_ENDPOINT, JobReply

FIELDS = "Fields of the job"
MAPS = "attention_"
"""What the names of attention maps begin with."""

bridge = typer.Typer()
bridge.callback(invoke_without_command=True)(start)


class Alignment(StrEnum):
    """How both models' grids of cells are brought together."""

    exact = "exact"
    interpolate = "interpolate"


class Loading(StrEnum):
    """How the vision model shares the memory with the editor."""

    auto = "auto"
    sequential = "sequential"
    eight_bit = "8bit"
    offload = "offload"


class Fusion(StrEnum):
    """How a bridge brings its levels together."""

    attention = "attention"
    mlp = "mlp"


ImagesArgument = Annotated[list[str], typer.Argument(metavar="IMAGE", help="Files or addresses; each is a case.")]
PromptOption = Annotated[list[str], typer.Option("--prompt", "-p", help="One for all images, or one for each.")]
OutOption = Annotated[Path, typer.Option("--out", "-o", help="Folder of the result.")]
BridgeOption = Annotated[str | None, typer.Option(help="A stored bridge's key, with --local also a file, or untrained; "
                                                  "the profile's own without it.",
                                                  rich_help_panel=FIELDS)]  # fmt: skip
SightOption = Annotated[list[str] | None, typer.Option("--sight", help="What the vision models see of each image "
                                                       "instead.", rich_help_panel=FIELDS)]  # fmt: skip
ExtractorPromptOption = Annotated[str | None, typer.Option(help="Read by the other vision model before the picture.",
                                                           rich_help_panel=FIELDS)]  # fmt: skip
LoadingOption = Annotated[Loading | None, typer.Option(rich_help_panel=FIELDS)]


@bridge.command()
def compare(
    images: ImagesArgument,
    prompt: PromptOption,
    out: OutOption = Path("comparison"),
    bridge: BridgeOption = None,
    sight: SightOption = None,
    extractor_prompt: ExtractorPromptOption = None,
    alignment: Annotated[Alignment | None, typer.Option(rich_help_panel=FIELDS)] = None,
    loading: LoadingOption = None,
    preset: Annotated[Preset | None, typer.Option(rich_help_panel=FIELDS)] = None,
    steps: Annotated[int | None, typer.Option("--steps", "--num-inference-steps", rich_help_panel=FIELDS)] = None,
    cfg: Annotated[float | None, typer.Option("--cfg", "--true-cfg-scale", rich_help_panel=FIELDS)] = None,
    seed: Annotated[int | None, typer.Option(help="-1 draws one.", rich_help_panel=FIELDS)] = None,
    size: Annotated[str | None, typer.Option(help="match_input or 1024*1024.", rich_help_panel=FIELDS)] = None,
    negative_prompt: Annotated[str | None, typer.Option(rich_help_panel=FIELDS)] = None,
    lora: Annotated[list[str] | None, typer.Option(help="PATH or PATH:SCALE.", rich_help_panel=FIELDS)] = None,
    as_json: JsonOption = False,
    timeout: TimeoutOption = None,
    local: LocalOption = False,
    endpoint: EndpointOption = LOCAL_ENDPOINT,
    api_key: ApiKeyOption = None,
    runpod_api_key: RunpodKeyOption = None,
) -> None:
    """Each picture edited with the model's own sight and with the bridge's, from the same noise.

    darkroom bridge compare photo.png -p "make it sepia" -o comparison/
    """
    from darkroom.client.batch.fields import parse_loras
    from darkroom.client.bridges import compare_input

    key, files = handed(bridge, local)
    fields = {
        "bridge": key, "extractor_prompt": extractor_prompt, "num_inference_steps": steps, "true_cfg_scale": cfg,
        "alignment": alignment.value if alignment else None, "loading": loading.value if loading else None,
        "preset": preset.value if preset else None, "seed": seed, "size": size, "negative_prompt": negative_prompt,
        "loras": parse_loras(";".join(lora)) if lora else None,
    }  # fmt: skip
    with told():
        request = compare_input(images, prompt, sight or [], fields)
        reply = (
            in_this_process(request, out, stored=files)
            if local
            else by_endpoint(request, out, timeout, endpoint, own_key(endpoint, api_key, runpod_api_key))
        )
    tell(reply, [*_table(reply), *sorted(str(path) for path in out.glob("comparison_*.png"))], as_json)


@bridge.command()
def attention(
    images: ImagesArgument,
    prompt: PromptOption,
    out: OutOption = Path("attention"),
    bridge: BridgeOption = None,
    sight: SightOption = None,
    timeout: TimeoutOption = None,
    local: LocalOption = False,
    endpoint: EndpointOption = LOCAL_ENDPOINT,
    api_key: ApiKeyOption = None,
    runpod_api_key: RunpodKeyOption = None,
) -> None:
    """Which level of the other model the bridge looks at, drawn on each picture; the edit itself is one step long."""
    from darkroom.client.bridges import compare_input

    key, files = handed(bridge, local)
    fields = {"bridge": key, "num_inference_steps": 1, "true_cfg_scale": 1.0, "negative_prompt": ""}
    with told():
        request = compare_input(images, prompt, sight or [], fields)
        reply = (
            in_this_process(request, out, MAPS, files)
            if local
            else by_endpoint(request, out, timeout, endpoint, own_key(endpoint, api_key, runpod_api_key), MAPS)
        )
    tell(reply, sorted(str(path) for path in out.glob(f"{MAPS}*.png")), False)


@bridge.command()
def train(
    dataset: Annotated[str, typer.Argument(metavar="TRIPLES", help="Folder, zip or address of edit triples; "
                                           "`darkroom pocket triples` draws some.")],
    out: OutOption = Path("bridge"),
    bridge: Annotated[str | None, typer.Option(help="A stored bridge's key to start from, with --local also a "
                                               "file.")] = None,
    distill_epochs: Annotated[int | None, typer.Option()] = None,
    flow_epochs: Annotated[int | None, typer.Option()] = None,
    batch_size: Annotated[int | None, typer.Option()] = None,
    gradient_accumulation: Annotated[int | None, typer.Option()] = None,
    lr: Annotated[float | None, typer.Option()] = None,
    weight_decay: Annotated[float | None, typer.Option()] = None,
    held_out: Annotated[float | None, typer.Option(help="Share of the triples that only validates.")] = None,
    fusion: Annotated[Fusion | None, typer.Option()] = None,
    rank: Annotated[int | None, typer.Option()] = None,
    use_residual: Annotated[bool | None, typer.Option("--residual/--no-residual", help="Add to the baseline's tokens, "
                                                      "or stand in their place.")] = None,
    shared_up: Annotated[bool | None, typer.Option("--shared-up/--separate-up", help="One projection back for all "
                                                   "levels.")] = None,
    seed: Annotated[int | None, typer.Option()] = None,
    extractor_prompt: ExtractorPromptOption = None,
    loading: LoadingOption = None,
    as_json: JsonOption = False,
    timeout: TimeoutOption = None,
    local: LocalOption = False,
    endpoint: EndpointOption = LOCAL_ENDPOINT,
    api_key: ApiKeyOption = None,
    runpod_api_key: RunpodKeyOption = None,
) -> None:
    """Train a bridge on edit triples: distillation, then the velocity loss. Its key stands in the reply.

    The same command goes on after the last epoch that an interrupted one had finished.

    darkroom bridge train triples.zip --distill-epochs 5 --flow-epochs 10 -o bridge/
    """
    from darkroom.client.bridges import train_input

    key, files = handed(bridge, local)
    fields = {
        "bridge": key, "distill_epochs": distill_epochs, "flow_epochs": flow_epochs, "batch_size": batch_size,
        "gradient_accumulation": gradient_accumulation, "lr": lr, "weight_decay": weight_decay, "held_out": held_out,
        "fusion": fusion.value if fusion else None, "rank": rank, "use_residual": use_residual, "shared_up": shared_up,
        "seed": seed, "extractor_prompt": extractor_prompt, "loading": loading.value if loading else None,
    }  # fmt: skip
    with told():
        request = train_input(dataset, fields)
        reply = (
            in_this_process(request, out, stored=files)
            if local
            else by_endpoint(request, out, timeout, endpoint, own_key(endpoint, api_key, runpod_api_key))
        )
    more = reply.model_extra or {}
    kept = [] if local else stored_keys(reply, more["bridge"]["file"])
    losses = [f"{when}: {json.dumps(found)}" for when, found in more["validation"].items()]
    tell(reply, [*kept, *losses, str(out / more["bridge"]["file"]), str(out / "curves.png")], as_json)


@bridge.command()
def extract(
    image: Annotated[Path, typer.Argument(metavar="IMAGE")],
    prompt: Annotated[str | None, typer.Option("--prompt", "-p", help="Read before the picture.")] = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Also write the report as JSON.")] = None,
) -> None:
    """What Qwen3-VL and the editor's Qwen2.5-VL see of a picture, in numbers; in this process."""
    from darkroom.jobs import Limits
    from darkroom.media import decode_image
    from darkroom.models.shelf import Shelf, read_card
    from darkroom.models.specs import resolve
    from darkroom.models.vision_report import extraction
    from darkroom.settings import Settings

    with told():
        picture = decode_image(image.read_bytes(), str(image), Limits()).image
        report = extraction(Shelf(resolve(Settings(), read_card())), picture, prompt)
    text = json.dumps(report, indent=2)
    if out is not None:
        out.write_text(text + "\n")
    typer.echo(text)


cli_bridge_evaluate.add_to(bridge)


@bridge.command(name="all")
def everything(
    images: ImagesArgument,
    prompt: PromptOption,
    out: OutOption = Path("bridge_results"),
    bridge: BridgeOption = None,
    endpoint: EndpointOption = LOCAL_ENDPOINT,
    api_key: ApiKeyOption = None,
    runpod_api_key: RunpodKeyOption = None,
) -> None:
    """The comparison, its attention maps and the whole evaluation, in folders of their own."""
    from darkroom.client.bridges import compare_input

    with told():
        key = own_key(endpoint, api_key, runpod_api_key)
        request = compare_input(images, prompt, [], {"bridge": bridge})
        reply = by_endpoint(request, out / "comparison", None, endpoint, key)
        cli_bridge_evaluate.run_evaluation({"bridge": bridge}, out / "evaluation", None, endpoint, key)
    tell(reply, [*_table(reply), str(out / "comparison"), str(out / "evaluation")], False)


def handed(bridge: str | None, local: bool) -> tuple[str | None, dict[str, Path]]:
    """The key of a bridge, and, for a job in this process, the file that is to stand under it."""
    if bridge is None or not local or not Path(bridge).is_file():
        return bridge, {}
    key = f"given/{Path(bridge).name}"
    return key, {key: Path(bridge)}


def _table(reply: JobReply) -> list[str]:
    """One line per case: what the bridge changed, and both times."""
    more = reply.model_extra or {}
    lines = [f"bridge: {more['bridge']['state']}, {more['bridge']['parameters']:,} parameters"]
    for case in more["cases"]:
        seconds = case["seconds"]
        lines.append(
            f"{case['case']:>3}  {case['prompt'][:40]:40}  changed pixels {case['difference']['changed_pixels']:.1%}  "
            f"baseline {seconds['baseline']:.2f} s  enhanced {seconds['enhanced']:.2f} s"
        )
    return lines
