"""`darkroom video`: a clip from an edited first frame and edges, by an endpoint or in this process."""

from __future__ import annotations

import json
import shutil
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from darkroom.cli_options import SOME_FAILED, ApiKeyOption, EndpointOption, RunpodKeyOption, own_key, told
from darkroom.client import LOCAL_ENDPOINT, Client, VideoReply

FIELDS = "Fields of video_edit"
GUIDANCE = "Test-time loss guidance (none without a scale above 0)"
HERE = "In this process"

ROOM = ".darkroom"
"""In the output folder with --local: the store of the job that runs."""
JOB = "clip"
MANIFEST = "manifest.json"


class Through(StrEnum):
    """How far the gradients of guidance go back."""

    vae = "vae"
    transformer = "transformer"


class Device(StrEnum):
    """Where --local computes."""

    cpu = "cpu"
    cuda = "cuda"


class Dtype(StrEnum):
    """What --local computes in."""

    fp32 = "fp32"
    bf16 = "bf16"
    fp16 = "fp16"


def video(
    init: Annotated[str | None, typer.Argument(metavar="INIT", help="The edited first frame: file or address.")] = None,
    edges: Annotated[str | None, typer.Option("--edges", "--edge-frames-dir", help="Folder, zip or video of edges: "
                                              "bright lines on black.")] = None,
    source: Annotated[str | None, typer.Option("--source", help="A video to take edges and motion from.")] = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", "--out-frames-dir", help="Folder of the result.")] = None,
    init_frame: Annotated[str | None, typer.Option("--init-frame", help="The same as INIT.")] = None,
    metrics_out: Annotated[Path | None, typer.Option(help="Copy metrics.csv to this place.")] = None,
    self_test: Annotated[bool, typer.Option("--self-test", help="Try the parts of guidance on a small example, without "
                                            "a model, and end.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the reply as JSON, for scripts.")] = False,
    timeout: Annotated[float | None, typer.Option(help="Seconds to wait; the job itself goes on.")] = None,
    prompt: Annotated[str | None, typer.Option("--prompt", "-p", rich_help_panel=FIELDS)] = None,
    negative_prompt: Annotated[str | None, typer.Option(rich_help_panel=FIELDS)] = None,
    steps: Annotated[int | None, typer.Option("--steps", "--num-inference-steps", rich_help_panel=FIELDS)] = None,
    cfg: Annotated[float | None, typer.Option("--cfg", "--true-cfg-scale", rich_help_panel=FIELDS)] = None,
    seed: Annotated[int | None, typer.Option(help="-1 draws one.", rich_help_panel=FIELDS)] = None,
    max_frames: Annotated[int | None, typer.Option(help="Beside frame 0, at most.", rich_help_panel=FIELDS)] = None,
    fps: Annotated[float | None, typer.Option(help="The source's own, or 8.", rich_help_panel=FIELDS)] = None,
    ttlg_edge_scale: Annotated[float | None, typer.Option(rich_help_panel=GUIDANCE)] = None,
    ttlg_gram_scale: Annotated[float | None, typer.Option(rich_help_panel=GUIDANCE)] = None,
    ttlg_temporal_scale: Annotated[float | None, typer.Option(rich_help_panel=GUIDANCE)] = None,
    ttlg_lr: Annotated[float | None, typer.Option(help="RMS step, relative to the latents.",
                                                  rich_help_panel=GUIDANCE)] = None,
    ttlg_every: Annotated[int | None, typer.Option(help="Guide every N-th step.", rich_help_panel=GUIDANCE)] = None,
    ttlg_start_step: Annotated[int | None, typer.Option(rich_help_panel=GUIDANCE)] = None,
    ttlg_end_step: Annotated[int | None, typer.Option(rich_help_panel=GUIDANCE)] = None,
    ttlg_last_steps: Annotated[int | None, typer.Option(rich_help_panel=GUIDANCE)] = None,
    ttlg_edge_size: Annotated[int | None, typer.Option(help="Longer side, pixels.", rich_help_panel=GUIDANCE)] = None,
    ttlg_gram_size: Annotated[int | None, typer.Option(help="Longer side, pixels.", rich_help_panel=GUIDANCE)] = None,
    ttlg_iterations: Annotated[int | None, typer.Option(help="Moves per step.", rich_help_panel=GUIDANCE)] = None,
    ttlg_through: Annotated[Through | None, typer.Option(rich_help_panel=GUIDANCE)] = None,
    local: Annotated[bool, typer.Option("--local", help="Without an endpoint.", rich_help_panel=HERE)] = False,
    model_id: Annotated[str | None, typer.Option(help="Hugging Face id or folder.", rich_help_panel=HERE)] = None,
    device: Annotated[Device | None, typer.Option(rich_help_panel=HERE)] = None,
    dtype: Annotated[Dtype | None, typer.Option(rich_help_panel=HERE)] = None,
    endpoint: EndpointOption = LOCAL_ENDPOINT,
    api_key: ApiKeyOption = None,
    runpod_api_key: RunpodKeyOption = None,
) -> None:
    """Make a clip frame by frame. The same command goes on where an interrupted one stopped.

    darkroom video init.png --source clip.mp4 -o out/ --ttlg-edge-scale 1 --ttlg-gram-scale 0.2
    """
    if self_test:
        from darkroom.cli_video_check import check

        raise typer.Exit(0 if check() else SOME_FAILED)
    guidance = {
        "edge_scale": ttlg_edge_scale, "gram_scale": ttlg_gram_scale, "temporal_scale": ttlg_temporal_scale,
        "lr": ttlg_lr, "every": ttlg_every, "start_step": ttlg_start_step, "end_step": ttlg_end_step,
        "last_steps": ttlg_last_steps, "edge_size": ttlg_edge_size, "gram_size": ttlg_gram_size,
        "iterations": ttlg_iterations, "through": ttlg_through.value if ttlg_through else None,
    }  # fmt: skip
    fields = {
        "prompt": prompt, "negative_prompt": negative_prompt, "num_inference_steps": steps, "true_cfg_scale": cfg,
        "seed": seed, "max_frames": max_frames, "fps": fps,
        "ttlg": {name: value for name, value in guidance.items() if value is not None} or None,
    }  # fmt: skip
    with told():
        folder = out or Path("out")
        request = _request(init, init_frame, edges, source, fields)
        if local:
            reply = _here(request, folder, model_id, device, dtype)
        elif model_id or device or dtype:
            raise ValueError("--model-id, --device and --dtype choose for --local; an endpoint has its own model")
        else:
            key = own_key(endpoint, api_key, runpod_api_key)
            reply = _there(request, folder, timeout, endpoint, key)
        if metrics_out is not None:
            metrics_out.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(folder / "metrics.csv", metrics_out)
    _tell(reply, folder, as_json)


def _request(
    init: str | None, init_frame: str | None, edges: str | None, source: str | None, fields: dict[str, Any]
) -> dict[str, Any]:
    from darkroom.client.clips import video_input

    first = init or init_frame
    if first is None or (init and init_frame):
        raise ValueError("give the first frame once, as INIT or --init-frame")
    return video_input(first, edges, source, fields)


# -- by an endpoint -----------------------------------------------------------------------------


def _there(
    request: dict[str, Any], folder: Path, timeout: float | None, endpoint: str, api_key: str | None
) -> VideoReply:
    """Submit under the key that an interrupted command has left, wait, and fetch what is not there yet."""
    from darkroom.cli_edit import taken_back
    from darkroom.cli_resume import resumable
    from darkroom.cli_video_bar import clip_bar
    from darkroom.client import Polling, Retry
    from darkroom.client.clips import missing

    polling = Polling(most_seconds=0.5)
    with (
        resumable(request, folder) as keyed,
        Client(endpoint, api_key=api_key, retry=Retry(attempts=4), polling=polling) as client,
    ):
        with clip_bar() as show, taken_back(client, lambda status: show(status.output)) as noted:
            answer = client.run(keyed, progress=noted, timeout_seconds=timeout)
        reply = VideoReply.model_validate(answer.model_dump())
        left = [client.download(file, path) for file, path in missing(reply, folder) if file.url]
        if not left and not (folder / "video.mp4").exists():
            raise ValueError("the endpoint's store makes no links and the clip fits no reply; its keys are in it")
    return reply


# -- in this process ----------------------------------------------------------------------------


def _here(
    request: dict[str, Any], folder: Path, model_id: str | None, device: Device | None, dtype: Dtype | None
) -> VideoReply:
    """Run the job in this process, on a store within `folder`; an interrupted one goes on there."""
    import asyncio

    from darkroom.cli_video_bar import clip_bar
    from darkroom.client.errors import JobFailed
    from darkroom.service import Service

    store = folder / ROOM
    service = Service(_settings(store, model_id, device, dtype))
    with clip_bar() as show:

        async def send(payload: dict[str, Any]) -> None:
            show(payload)

        answer = asyncio.run(service.handle({"id": JOB, "input": request}, send))
    if "error" in answer:
        message = str(answer["error"]).partition(": ")[2]
        raise JobFailed(message, job_id=JOB, code=str(answer["code"]), retryable=bool(answer["retryable"]))
    reply = VideoReply.model_validate(answer)
    for name in (*(file.name for file in (*reply.files, *reply.frames)), MANIFEST):
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.move(store / JOB / name, target)
    shutil.rmtree(store)
    return reply


def _settings(store: Path, model_id: str | None, device: Device | None, dtype: Dtype | None) -> Any:
    """The environment's settings with the command's put in place. Raises ValueError for what cannot be."""
    from darkroom.models.shelf import read_card
    from darkroom.settings import Settings

    if dtype is Dtype.fp16:
        raise ValueError("--dtype fp16: this family's activations exceed float16's range; use bf16 or fp32")
    if device is Device.cuda and read_card() is None:
        raise ValueError("--device cuda: there is no CUDA device here")
    own = {
        "video_model": model_id,
        "profile": "pocket" if device is Device.cpu else None,
        "precision": {Dtype.fp32: "float32", Dtype.bf16: "bf16"}[dtype] if dtype else None,
    }
    place = {"store": str(store), "spool": store / ".spool", "public_url": store.resolve().as_uri()}
    return Settings(**place, **{name: value for name, value in own.items() if value is not None})  # type: ignore[arg-type]


def _tell(reply: VideoReply, folder: Path, as_json: bool) -> None:
    from darkroom.cli_text import cost_text, timings_text

    if as_json:
        typer.echo(json.dumps({**reply.model_dump(mode="json"), "folder": str(folder)}, indent=2))
        return
    typer.echo(f"{folder / 'video.mp4'}  {reply.num_frames} frames  seed {reply.seed}")
    for name in ("side_by_side.mp4", "contact_sheet.png", "metrics.csv", "metrics.png"):
        typer.echo(str(folder / name))
    typer.echo(timings_text(reply.timings))
    typer.echo(cost_text(reply.cost))
    for warning in reply.warnings:
        typer.secho(f"warning: {warning}", err=True, fg=typer.colors.YELLOW)
