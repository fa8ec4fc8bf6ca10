"""`darkroom inject train | sweep`: a person's photos into a prompt, by an endpoint or in this process."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from darkroom.cli_job import JsonOption, LocalOption, TimeoutOption, by_endpoint, in_this_process, stored_keys, tell
from darkroom.cli_options import ApiKeyOption, EndpointOption, RunpodKeyOption, own_key, told
from darkroom.client import LOCAL_ENDPOINT

HEAD = "checkpoints/head.safetensors"

inject = typer.Typer(no_args_is_help=True, help="Inject a person's features into a prompt: train a head, sweep its "
                     "strength.")  # fmt: skip


class Fit(StrEnum):
    """How photos are fitted to the vision model."""

    crop = "crop"
    budget = "budget"


class Captions(StrEnum):
    """Where people's captions come from."""

    sidecar = "sidecar"
    vision = "vision"


class Objective(StrEnum):
    """What a head is trained for; zero is the published original's, as a baseline."""

    caption = "caption"
    flow = "flow"
    both = "both"
    zero = "zero"


SeedDirsOption = Annotated[
    list[str] | None,
    typer.Option("--seed-dirs", "--dataset", help="seed_* directories with photo_view_*.png, folders of them, a zip or "
                 "an address; comma separated, or repeated."),
]  # fmt: skip
OutOption = Annotated[Path, typer.Option("--out", "-o", "--out-dir", help="Folder of the result.")]
FitOption = Annotated[Fit | None, typer.Option(help="The middle square, or the whole photo.")]
PixelsOption = Annotated[int | None, typer.Option(help="Area at which photos are seen; 448² by default.")]
PromptOption = Annotated[str | None, typer.Option(help="~ID~ is the person's place in it; else its end.")]


@inject.command()
def sweep(
    photos: Annotated[list[str] | None, typer.Argument(metavar="PHOTO", help="Photos of one person.")] = None,
    seed_dirs: SeedDirsOption = None,
    out: OutOption = Path("out"),
    head: Annotated[str | None, typer.Option(help="A head's file, address, or key in the endpoint's store.")] = None,
    alphas: Annotated[str | None, typer.Option(help="Strengths, comma separated.")] = None,
    gen_seeds: Annotated[str | None, typer.Option(help="Seeds, comma separated.")] = None,
    steps: Annotated[int | None, typer.Option()] = None,
    guidance: Annotated[float | None, typer.Option(help="True CFG; 1 is none.")] = None,
    height: Annotated[int | None, typer.Option()] = None,
    width: Annotated[int | None, typer.Option()] = None,
    base_prompt: PromptOption = None,
    negative_prompt: Annotated[str | None, typer.Option()] = None,
    caption: Annotated[str | None, typer.Option(help="The person in words, as a ceiling.")] = None,
    other_photos: Annotated[str | None, typer.Option(help="Of somebody else, as a control; comma separated.")] = None,
    controls: Annotated[bool, typer.Option(help="Also another person's residual and a random one.")] = True,
    photo_fit: FitOption = None,
    photo_pixels: PixelsOption = None,
    as_json: JsonOption = False,
    timeout: TimeoutOption = None,
    local: LocalOption = False,
    endpoint: EndpointOption = LOCAL_ENDPOINT,
    api_key: ApiKeyOption = None,
    runpod_api_key: RunpodKeyOption = None,
) -> None:
    """Pictures of people at every strength and seed, with controls, a grid and curves.

    The same command goes on after the last person whom an interrupted one had finished.

    darkroom inject sweep --seed-dirs people/ --alphas 0.5,1.0,1.5 --gen-seeds 1234,5678 -o out/
    """
    from darkroom.client.people import sweep_input

    with told():
        fields = {
            "alphas": _numbers(alphas, float, "--alphas"), "gen_seeds": _numbers(gen_seeds, int, "--gen-seeds"),
            "steps": steps, "guidance": guidance, "height": height, "width": width, "base_prompt": base_prompt,
            "negative_prompt": negative_prompt, "caption": caption, "controls": None if controls else False,
            "other_photos": _parts([other_photos] if other_photos else None),
            "photo_fit": photo_fit.value if photo_fit else None, "photo_pixels": photo_pixels,
        }  # fmt: skip
        request = sweep_input(photos or [], _parts(seed_dirs), head, fields)
        key = own_key(endpoint, api_key, runpod_api_key)
        reply = in_this_process(request, out) if local else by_endpoint(request, out, timeout, endpoint, key)
    people = (reply.model_extra or {})["people"]
    lines = [f"{name}: best α {person['best_alpha']}" for name, person in people.items()]
    grids = [str(out / f"generations/{name}_alpha_grid.png") for name in people]
    tell(reply, [*lines, *grids, str(out / "curves.png")], as_json)


@inject.command()
def train(
    seed_dirs: SeedDirsOption = None,
    out: OutOption = Path("out"),
    objective: Annotated[Objective | None, typer.Option()] = None,
    captions: Annotated[Captions | None, typer.Option(help="vision: Qwen3-VL writes those that are missing.")] = None,
    epochs: Annotated[int | None, typer.Option()] = None,
    batch_size: Annotated[int | None, typer.Option()] = None,
    lr: Annotated[float | None, typer.Option()] = None,
    gradient_accumulation: Annotated[int | None, typer.Option()] = None,
    cosine_weight: Annotated[float | None, typer.Option()] = None,
    mse_weight: Annotated[float | None, typer.Option()] = None,
    rms_weight: Annotated[float | None, typer.Option()] = None,
    flow_weight: Annotated[float | None, typer.Option()] = None,
    slots: Annotated[int | None, typer.Option(help="Tokens that the residual stands on.")] = None,
    rank: Annotated[int | None, typer.Option()] = None,
    held_out: Annotated[int | None, typer.Option(help="Photos of each person for validation alone.")] = None,
    base_prompt: PromptOption = None,
    seed: Annotated[int | None, typer.Option()] = None,
    photo_fit: FitOption = None,
    photo_pixels: PixelsOption = None,
    as_json: JsonOption = False,
    timeout: TimeoutOption = None,
    local: LocalOption = False,
    endpoint: EndpointOption = LOCAL_ENDPOINT,
    api_key: ApiKeyOption = None,
    runpod_api_key: RunpodKeyOption = None,
) -> None:
    """Train a head. Its key stands in the reply: `sweep --head` takes it.

    The same command goes on after the last epoch that an interrupted one had finished.

    darkroom inject train --seed-dirs people/ --epochs 5 --batch-size 2 --lr 1e-3 -o out/
    """
    from darkroom.client.people import train_input

    fields = {
        "objective": objective.value if objective else None, "captions": captions.value if captions else None,
        "epochs": epochs, "batch_size": batch_size, "lr": lr,
        "gradient_accumulation": gradient_accumulation, "cosine_weight": cosine_weight, "mse_weight": mse_weight,
        "rms_weight": rms_weight, "flow_weight": flow_weight, "slots": slots, "rank": rank, "held_out": held_out,
        "base_prompt": base_prompt, "seed": seed, "photo_fit": photo_fit.value if photo_fit else None,
        "photo_pixels": photo_pixels,
    }  # fmt: skip
    with told():
        if not seed_dirs:
            raise ValueError("--seed-dirs: name at least one directory of people")
        request = train_input(_parts(seed_dirs), fields)
        key = own_key(endpoint, api_key, runpod_api_key)
        reply = in_this_process(request, out) if local else by_endpoint(request, out, timeout, endpoint, key)
    more = reply.model_extra or {}
    losses = f"loss {more['loss']:.4f}" + (
        f", on held-out photos {more['validation_loss']:.4f}" if more.get("validation_loss") is not None else ""
    )
    kept = [] if local else stored_keys(reply, HEAD)
    tell(reply, [*kept, losses, *(str(out / name) for name in (HEAD, "curves.png"))], as_json)


def _parts(values: list[str] | None) -> list[str]:
    """Comma-separated lists, repeated or not, as one list; an address may hold commas."""
    found = []
    for value in values or []:
        found += [value] if "://" in value or value.startswith("data:") else value.split(",")
    return [part.strip() for part in found if part.strip()]


def _numbers(text: str | None, kind: type[float] | type[int], option: str) -> list[Any] | None:
    """'0.5,1.0' -> [0.5, 1.0]. Raises ValueError that names the option and the part that is no number."""
    if text is None:
        return None
    numbers = []
    for part in text.split(","):
        try:
            numbers.append(kind(part.strip()))
        except ValueError:
            what = "a whole number" if kind is int else "a number"
            raise ValueError(f"{option}: {part.strip()!r} is not {what}") from None
    return numbers
