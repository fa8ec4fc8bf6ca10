"""`video_edit`: a clip frame by frame, each made from its edges, the init frame and the frame before, steered by TTLG.

Every frame is stored as soon as it is done. Whoever takes the job over goes on after the last stored frame with the
same result: the frame before is always the stored one, and a frame's noise depends on the job's seed and its number.
"""

from __future__ import annotations

import hashlib
import secrets
import time
from collections.abc import Generator
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

import torch
from PIL import Image

from darkroom.artifacts import Artifact
from darkroom.errors import FetchFailed, InputTooLarge, InvalidInput
from darkroom.jobs import VideoEdit, frame_seed
from darkroom.media import decode_image, encode_image, to_uint8
from darkroom.models.editor import Conditioning, Editor, fit
from darkroom.models.optical_flow import RAFT_FILE, Dis
from darkroom.models.perceptual import VGG_FILE, PocketEncoder
from darkroom.models.presets import DEFAULT
from darkroom.models.sight import PromptTooLong
from darkroom.technique.guidance import GuidanceFailed, GuidedStep
from darkroom.technique.sampling import sample
from darkroom.workers.pictures.wording import warn_of_unread
from darkroom.workers.recipe import Desk, Event, Progress, Recipe, Streamed, Work, need_gradients
from darkroom.workers.video.cut import Cut, frame_name
from darkroom.workers.video.footage import DEFAULT_FPS, Footage, Take, open_footage
from darkroom.workers.video.rows import Row, guidance_fields, plots, step_record, table
from darkroom.workers.video.scene import Rulers, Scene, scenes
from darkroom.workers.video.steering import Steering, idle_losses


@dataclass(frozen=True)
class Plan:
    """What the whole clip is made by. A frame of another plan cannot be gone on from."""

    seed: int
    prompt: str
    steps: int
    true_cfg_scale: float
    width: int
    height: int
    model: dict[str, Any]

    def record(self) -> dict[str, Any]:
        """As JSON values, to be stored with frame 0."""
        return dict(vars(self))


@dataclass
class Clip:
    """The job as prepared: the plan, the init frame at the size of the output, and what is done already.

    rows, steps: by frame, what was measured and what guidance did. done: frames in `cut`, frame 0 included.
    """

    plan: Plan
    init: Image.Image
    footage: Footage
    cut: Cut
    rows: list[Row] = field(default_factory=list)
    steps: dict[int, list[dict[str, Any]]] = field(default_factory=dict)
    done: int = 0


# -- before the torch thread ----------------------------------------------------------------------


def prepare(job: VideoEdit, desk: Desk) -> Clip:
    """Decode the init frame, look at the frames' headers, and fetch what an earlier try has stored."""
    if job.ttlg is not None and job.ttlg.active and job.ttlg.through == "transformer":
        need_gradients(desk, "ttlg.through", 'choose "vae"')
    picture = decode_image(desk.files["init_image"], "init_image", desk.limits)
    for note in picture.notes:
        desk.warn(note)
    spec = desk.shelf.spec("video")
    size = fit(spec.areas.vae, picture.image.width / picture.image.height)
    footage = open_footage(job, desk, size, picture.image.size)
    plan = planned(job, desk, size)
    advise(job, plan, footage, desk)
    fps = Fraction(job.fps).limit_denominator(1001) if job.fps is not None else footage.fps or DEFAULT_FPS
    init = picture.image if picture.image.size == size else picture.image.resize(size, Image.Resampling.LANCZOS)
    clip = Clip(plan, init, footage, Cut(desk.folder, footage, fps))
    return resumed(clip, desk)


def planned(job: VideoEdit, desk: Desk, size: tuple[int, int]) -> Plan:
    """The profile's defaults with the job's explicit fields; a seed of -1 is drawn, or taken from an earlier try."""
    spec = desk.shelf.spec("video")
    preset = spec.presets[DEFAULT]
    steps = preset.steps if job.num_inference_steps is None else job.num_inference_steps
    if job.ttlg is not None:
        job.ttlg.check_steps(steps)
    drawn = desk.earlier[0].record.get("seed") if desk.earlier else None
    seed = job.seed if job.seed >= 0 else drawn if isinstance(drawn, int) else secrets.randbelow(2**31)
    return Plan(
        seed,
        job.prompt or spec.video_prompt,
        steps,
        preset.true_cfg_scale if job.true_cfg_scale is None else job.true_cfg_scale,
        *size,
        desk.shelf.identity("video"),
    )


def advise(job: VideoEdit, plan: Plan, footage: Footage, desk: Desk) -> None:
    """Say which wishes have no effect, and where something else than the best was at hand."""
    if plan.true_cfg_scale <= 1 and job.negative_prompt.strip():
        desk.warn("negative_prompt has no effect at true_cfg_scale 1, which runs without guidance")
    if job.ttlg is None or not job.ttlg.active:
        return
    if job.ttlg.temporal_scale > 0 and not footage.from_video:
        desk.warn(
            "ttlg.temporal_scale: without source_video there is no optical flow, so the temporal loss is the plain "
            "difference to the frame before, which also holds back what should move"
        )


def resumed(clip: Clip, desk: Desk) -> Clip:
    """The clip with the frames of an earlier try, as far as they are whole and belong to the same plan."""
    if not desk.earlier:
        return clip
    if desk.earlier[0].record != clip.plan.record():
        desk.warn("an earlier try of this job ran with another model or other defaults; its frames are made again")
        return clip
    for number, stored in enumerate(desk.earlier):
        if stored.entry.get("frame") != number or number > clip.footage.num_frames:
            break
        try:
            data = desk.read_stored(frame_name(number))
        except (KeyError, FetchFailed):
            break
        if hashlib.sha256(data).hexdigest() != stored.entry["sha256"]:
            break
        clip.cut.keep(number, data)
        clip.done = number + 1
        if number:
            clip.rows.append(stored.record["row"])
            clip.steps[number] = stored.record["steps"]
    if clip.done > 1:
        desk.warn(f"went on after frame {clip.done - 1}, which an earlier try of this job had stored")
    return clip


# -- on the torch thread --------------------------------------------------------------------------


def run(job: VideoEdit, desk: Desk) -> Work:
    """Make what is missing of the clip, frame by frame, then the films, the table and the sheet."""
    clip: Clip = desk.prepared
    editor = desk.editor("video", whole=False)
    with desk.clock.span("load"):
        rulers = Rulers(desk.shelf.perceptual(), desk.shelf.optical_flow(), editor.device)
    warn_of_unread(editor, desk, [job.prompt], job.negative_prompt)
    warn_of_windows(editor, job, clip.plan, desk)
    warn_of_stand_ins(job, clip.footage, rulers, desk)
    if not clip.done:
        yield streamed(clip, 0, clip.init, {"seed": clip.plan.seed}, clip.plan.record())
    yield from frames(job, clip, editor, rulers, desk)
    yield Progress("films", 0, 1)
    for make in (clip.cut.video, clip.cut.side_by_side, clip.cut.contact_sheet):
        yield Streamed(make)
    yield Streamed(lambda: Artifact("metrics.csv", "text/csv", table(clip.rows)))
    yield Streamed(lambda: Artifact("metrics.png", "image/png", plots(clip.rows, clip.steps)))
    return {
        "seed": clip.plan.seed,
        "num_frames": clip.footage.num_frames + 1,
        "width": clip.plan.width,
        "height": clip.plan.height,
        "fps": float(clip.cut.fps),
        "prompt": clip.plan.prompt,
        "model": clip.plan.model,
        "parameters": {"num_inference_steps": clip.plan.steps, "true_cfg_scale": clip.plan.true_cfg_scale},
        "measured_by": rulers.names,
    }


def warn_of_windows(editor: Editor, job: VideoEdit, plan: Plan, desk: Desk) -> None:
    """Say which losses guide no step."""
    if job.ttlg is None:
        return
    for name in idle_losses(job.ttlg, editor.levels(plan.steps, plan.width, plan.height)):
        desk.warn(
            f"ttlg.{name}_scale has no effect: of {plan.steps} steps none is in the window, or only the last one, "
            "which is never guided"
        )


def warn_of_stand_ins(job: VideoEdit, footage: Footage, rulers: Rulers, desk: Desk) -> None:
    """Say what measures and guides in the place of VGG16 and RAFT; a miniature is measured as it is meant to be."""
    if desk.shelf.profile.miniature:
        return
    missing = "is not in $TORCH_HOME/hub/checkpoints; docs/deploy.md says how it comes there"
    if isinstance(rulers.perceptual, PocketEncoder):
        styled = job.ttlg is not None and job.ttlg.gram_scale > 0
        what = "ttlg.gram_scale and the metrics go" if styled else "the metrics go"
        desk.warn(f"{what} by the {rulers.perceptual.name}, taught the pocket world alone, since {VGG_FILE} {missing}")
    if isinstance(rulers.flow, Dis) and footage.from_video and job.ttlg is not None and job.ttlg.temporal_scale > 0:
        desk.warn(f"ttlg.temporal_scale goes by the optical flow of {rulers.flow.name}, since {RAFT_FILE} {missing}")


def frames(job: VideoEdit, clip: Clip, editor: Editor, rulers: Rulers, desk: Desk) -> Generator[Event, None, None]:
    """Every frame that is not done yet, one after the other."""
    first = max(clip.done, 1)
    if first > clip.footage.num_frames:
        return
    # The take before the first is looked at too: motion is between the two.
    takes = clip.footage.takes(first - 1 if first > 1 or clip.footage.from_video else first)
    scene_of = scenes(clip.init, rulers)
    previous = clip.init if first == 1 else clip.cut.frame(first - 1)
    before: Take | None = None
    for take in takes:
        if take.frame >= first:
            scene = scene_of(take, before, previous)
            previous = yield from one_frame(take, previous, scene, job, clip, editor, desk)
        before = take


def one_frame(
    take: Take, previous: Image.Image, scene: Scene, job: VideoEdit, clip: Clip, editor: Editor, desk: Desk
) -> Generator[Event, None, Image.Image]:
    """Make one frame, measure it and hand it out; the frame."""
    began, plan, guided_steps = time.perf_counter(), clip.plan, list[GuidedStep]()
    with desk.clock.span("encode"):
        conditioning = condition(take, previous, job, clip, editor)
    encoded = time.perf_counter()
    yield from desk.finished(editor)
    began += time.perf_counter() - encoded  # the wait is the first frame's bad luck, not its making
    sigmas = editor.sigmas(plan.steps, plan.width, plan.height)
    seed = frame_seed(plan.seed, take.frame)
    plain_denoise = editor.denoiser(conditioning, plan.width, plan.height, plan.true_cfg_scale)
    steering = Steering(job.ttlg, scene, guided_steps)
    denoise = steering.around(plain_denoise, editor, sigmas, (plan.width, plan.height))
    steps = sample(denoise, editor.noise([seed], plan.width, plan.height), sigmas)
    try:
        for done, step in enumerate(desk.clock.timed("denoise", steps), 1):
            latents = step.latents
            yield progress(clip, take.frame, done)
    except GuidanceFailed as error:
        raise blown_up(error, take.frame) from error
    with desk.clock.span("decode"):
        pixels, drift = scene.registered(editor.decode(latents, plan.width, plan.height))
        image = to_uint8(pixels[0])
    row = {
        "frame": take.frame,
        "seed": seed,
        **scene.measured(image),
        **guidance_fields(guided_steps),
        "drift_x": drift.x,
        "drift_y": drift.y,
        "drift_zoom": drift.zoom,
        "frame_seconds": time.perf_counter() - began,
    }
    clip.rows.append(row)
    clip.steps[take.frame] = step_record(guided_steps)
    yield streamed(clip, take.frame, image, {"seed": seed}, {"row": row, "steps": clip.steps[take.frame]})
    return image


@torch.no_grad()
def condition(take: Take, previous: Image.Image, job: VideoEdit, clip: Clip, editor: Editor) -> Conditioning:
    """The model's three pictures, in this order: edges, init frame, frame before. Raises InputTooLarge."""
    references = editor.reference([take.edges, clip.init, previous])
    name, negative = "prompt", None
    try:
        prompt = editor.embed(clip.plan.prompt, references)
        if clip.plan.true_cfg_scale > 1:
            name = "negative_prompt"
            negative = editor.embed(job.negative_prompt, references)
    except PromptTooLong as error:
        raise InputTooLarge(f"{name} {error}", field=name) from error
    return Conditioning((prompt,), negative, references)


def progress(clip: Clip, frame: int, step: int) -> Progress:
    """Steps of the whole clip, and where within it."""
    steps, frames = clip.plan.steps, clip.footage.num_frames
    more = {"frame": frame, "frames": frames, "step": step, "steps": steps}
    return Progress("denoise", (frame - 1) * steps + step, frames * steps, more)


def streamed(clip: Clip, frame: int, image: Image.Image, about: dict[str, Any], record: dict[str, Any]) -> Streamed:
    """A frame on its way out, and into the clip's folder."""

    def encode() -> Artifact:
        data, media_type = encode_image(image, "png")
        clip.cut.keep(frame, data)
        size = {"width": image.width, "height": image.height}
        return Artifact(frame_name(frame), media_type, data, {"frame": frame, **size, **about})

    return Streamed(encode, record)


def blown_up(error: GuidanceFailed, frame: int) -> InvalidInput:
    """Guidance that left the numbers, as an error that says where and what to do."""
    kept = f"the {frame} frames before it are kept" if frame > 1 else "frame 0 is kept"
    return InvalidInput(
        f"ttlg: {error.what} is not finite at frame {frame}, step {error.step}; a smaller lr or scale may help; {kept}",
        field="ttlg",
        details={"frame": frame, "step": error.step},
    )


RECIPE = Recipe(run, prepare=prepare, streams=True)
