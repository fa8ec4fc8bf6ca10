"""`darkroom generate`: pictures from text, into files."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from darkroom.cli_edit import Delivery, Format, finish, taken_back
from darkroom.cli_options import ApiKeyOption, EndpointOption, RunpodKeyOption, own_key, told
from darkroom.client import LOCAL_ENDPOINT, Client
from darkroom.client.batch.fields import parse_loras

FIELDS = "Fields of image_generate"


def generate(
    prompt: Annotated[list[str], typer.Argument(metavar="PROMPT", help="What to show; several for several results.")],
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Result file, or a folder.")] = None,
    watch: Annotated[bool, typer.Option("--watch", help="Show every step as the worker tells it.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the reply as JSON, for scripts.")] = False,
    timeout: Annotated[float | None, typer.Option(help="Seconds to wait; the job itself goes on.")] = None,
    steps: Annotated[int | None, typer.Option("--steps", "--num-inference-steps", rich_help_panel=FIELDS)] = None,
    cfg: Annotated[float | None, typer.Option("--cfg", "--true-cfg-scale", rich_help_panel=FIELDS)] = None,
    seed: Annotated[int | None, typer.Option(help="-1 draws one.", rich_help_panel=FIELDS)] = None,
    size: Annotated[str | None, typer.Option(help="native or 1024*1024.", rich_help_panel=FIELDS)] = None,
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
    """Make a picture from text.

    darkroom generate "a person with long red hair and light skin, green eyes and a blue shirt" --seed 7
    """
    fields = {
        "num_inference_steps": steps, "true_cfg_scale": cfg, "seed": seed, "size": size,
        "negative_prompt": negative_prompt, "num_images": num_images, "output_format": output_format,
        "output_quality": quality, "delivery": delivery, "expires_seconds": expires_seconds,
        "loras": parse_loras(";".join(lora)) if lora else None,
    }  # fmt: skip
    plain = {name: value.value if isinstance(value, StrEnum) else value for name, value in fields.items()}
    with told():
        key = own_key(endpoint, api_key, runpod_api_key)
        _generate(prompt, plain, idempotency_key, out, watch, as_json, timeout, endpoint, key)


def _generate(
    prompts: list[str], fields: dict[str, Any], idempotency_key: str | None, out: Path | None, watch: bool,
    as_json: bool, timeout: float | None, endpoint: str, api_key: str | None,
) -> None:  # fmt: skip
    from darkroom.cli_progress import watching
    from darkroom.client import EditReply, Polling, Retry
    from darkroom.client.files import destinations
    from darkroom.client.request import generate_input

    request = generate_input(prompts[0] if len(prompts) == 1 else prompts, fields)
    if idempotency_key is not None:
        request["idempotency_key"] = idempotency_key
    polling = Polling(most_seconds=0.25 if watch else 1.5)
    with Client(endpoint, api_key=api_key, retry=Retry(attempts=4), polling=polling) as client:
        with watching(watch) as progress, taken_back(client, progress) as noted:
            answer = client.run(request, progress=noted, timeout_seconds=timeout)
        reply = EditReply.model_validate(answer.model_dump())
        paths = destinations(reply, out, "generated.png")
        for picture, path in zip(reply.images, paths, strict=True):
            client.download(picture, path)
    finish(reply, paths, None, as_json)
