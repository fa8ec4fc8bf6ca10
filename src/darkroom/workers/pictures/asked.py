"""What a picture job asks for, read: prompts as embeddings, LoRAs as weights, and warnings about the rest."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

from torch import Tensor

from darkroom.errors import BadJob, InputTooLarge
from darkroom.jobs import PictureJob
from darkroom.models import lora
from darkroom.models.cache import MIB
from darkroom.models.checkpoint import weights_of
from darkroom.models.editor import Editor
from darkroom.models.hub import Tell
from darkroom.models.presets import LoraFile, Preset
from darkroom.models.sight import PromptTooLong
from darkroom.workers.pictures.wording import warn_of_unread
from darkroom.workers.recipe import Desk, Progress

Embed = Callable[[str], Tensor]
"""A prompt -> its embeddings [L, D]. Raises PromptTooLong."""

Embeddings = dict[int, Tensor]
"""Position of a prompt -> its embeddings."""


def plan(job: PictureJob, presets: Mapping[str, Preset], name: str) -> Preset:
    """The preset of that name with the job's explicit fields put in place."""
    preset = presets[name]
    return replace(
        preset,
        steps=preset.steps if job.num_inference_steps is None else job.num_inference_steps,
        true_cfg_scale=preset.true_cfg_scale if job.true_cfg_scale is None else job.true_cfg_scale,
    )


def advise(job: PictureJob, preset: Preset, desk: Desk) -> None:
    """Say which explicit wishes have no effect in this combination."""
    if job.output_format == "png" and "output_quality" in job.model_fields_set:
        desk.warn("output_quality has no effect on png, which is lossless")
    if preset.true_cfg_scale <= 1 and job.negative_prompt.strip():
        desk.warn("negative_prompt has no effect at true_cfg_scale 1, which runs without guidance")


def warn_of_words(job: PictureJob, editor: Editor, desk: Desk) -> None:
    """Say what of the prompts is not read as it stands."""
    warn_of_unread(editor, desk, job.prompts, job.negative_prompt)


def gather_loras(job: PictureJob, preset: Preset, desk: Desk, role: str = "edit") -> list[lora.Lora]:
    """The preset's LoRA and the job's own, read and ready to be put on. Warns of one made for another model."""
    loras = [] if preset.lora is None else [preset_lora(preset.lora, desk, role)]
    for index, wanted in enumerate(job.loras):
        field = f"loras[{index}].path"
        if field in desk.files:
            loras.append(lora.read(desk.files[field], wanted.scale, field))
            continue
        own = lora.from_folder(desk.lora_dir, wanted.path, wanted.scale, field)
        most = desk.limits.max_lora_bytes
        if own is None:
            file = lora.hub_file(wanted.path, field)
            own = lora.from_hub(file, wanted.scale, field, most, downloading(file, desk))
        loras.append(own)
    return loras


def downloading(file: LoraFile, desk: Desk) -> Tell:
    """Says in the job's progress how far a download is, in MiB, and hears there that the job was cancelled."""

    def tell(done: int, total: int | None) -> None:
        more = {"file": f"{file.repo}/{file.file}", "unit": "MiB"}
        desk.tell(Progress("download", done // MIB, -(-(total or 0) // MIB), more))

    return tell


def preset_lora(file: LoraFile, desk: Desk, role: str) -> lora.Lora:
    """A preset's LoRA. Warns where it says what it was made for and the role has another transformer."""
    folder = Path(file.repo)
    if not folder.is_absolute():
        lora.downloaded(file, "preset", None, downloading(file, desk))
        return lora.of_preset(file)
    worn, base = lora.of_preset(file), lora.made_for(folder)
    if base is not None and weights_of(desk.shelf.spec(role), "transformer") not in (None, base):
        desk.warn(
            "the preset's LoRA was made for another transformer than this worker's; "
            "`darkroom pocket train --part lightning --begin-with FAMILY --work NEW --install` makes one that fits"
        )
    return worn


def read_prompts(job: PictureJob, embed: Embed) -> tuple[Embeddings, dict[int, BadJob]]:
    """Each good prompt's embeddings by position, and each bad one's fault. Raises the fault when none is good."""
    embeddings: Embeddings = {}
    failed = job.failed_prompts
    for index, prompt in enumerate(job.prompts):
        if index in failed:
            continue
        same = job.prompts.index(prompt)
        try:
            embeddings[index] = embeddings[same] if same in embeddings else embed(prompt)
        except PromptTooLong as error:
            field = "prompt" if isinstance(job.prompt, str) else f"prompt[{index}]"
            failed[index] = InputTooLarge(f"{field} {error}", field=field)
    if not embeddings:
        raise failed[min(failed)]
    return embeddings, failed


def read_negative(job: PictureJob, preset: Preset, embed: Embed) -> Tensor | None:
    """The negative prompt's embeddings, read once for all pictures; None where CFG is off."""
    if preset.true_cfg_scale <= 1:
        return None
    try:
        return embed(job.negative_prompt)
    except PromptTooLong as error:
        raise InputTooLarge(f"negative_prompt {error}", field="negative_prompt") from error


def told(job: PictureJob, failed: Mapping[int, BadJob]) -> list[dict[str, object]]:
    """The reply's `failed`: prompts that could not run, beside those that did."""
    return [{"index": i, "prompt": job.prompts[i], **bad.reply()} for i, bad in sorted(failed.items())]
