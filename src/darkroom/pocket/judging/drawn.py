"""People drawn from captions: how many of the attributes that a caption names are read back from the picture."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

from darkroom.models import generation
from darkroom.models.editor import Editor
from darkroom.models.likeness import PocketRulers
from darkroom.models.presets import Preset
from darkroom.pocket.judging.samples import said, stem, to_picture
from darkroom.pocket.world.colours import NAMES, Pixels, rgb
from darkroom.pocket.world.grounds import flat
from darkroom.pocket.world.people import draw_person, draw_pose, stands_out
from darkroom.pocket.world.portraits import Portrait
from darkroom.technique.sampling import sample

_SIDE = 128


@dataclass(frozen=True)
class DrawnScore:
    """`named`: mean share of a caption's attributes that the ruler reads in the drawing; `truth`: in the true one."""

    steps: int
    true_cfg_scale: float
    lora: bool
    cases: int
    named: float
    truth: float


def held_out_portrait(seed: int, number: int) -> tuple[str, Pixels]:
    """A caption that names everything, and one true picture of it."""
    rng = np.random.default_rng((seed, 98, number))
    while True:
        person, colour = draw_person(rng), str(rng.choice(NAMES))
        behind = flat(rgb(colour), _SIDE, _SIDE)
        if stands_out(person, behind):
            text = f"a portrait of {person.caption()} in front of a {colour} background".replace(
                " a orange", " an orange"
            )
            return text, Portrait(person, draw_pose(rng, _SIDE, _SIDE), behind).render()


@torch.no_grad()
def draw(editor: Editor, caption: str, seed: int, preset: Preset) -> Pixels:
    """What an image_generate job makes of `caption`: [128, 128, 3] in [0, 1]. The preset's LoRA is put on already."""
    conditioning = generation.condition(editor, [caption], " " if preset.true_cfg_scale > 1 else None)
    denoise = editor.denoiser(conditioning, _SIDE, _SIDE, preset.true_cfg_scale)
    latents = editor.noise([seed], _SIDE, _SIDE)
    for step in sample(denoise, latents, editor.sigmas(preset.steps, _SIDE, _SIDE, preset.shift)):
        latents = step.latents
    decoded = editor.decode(latents, _SIDE, _SIDE)
    return (decoded[0].permute(1, 2, 0).numpy() / 2 + 0.5).clip(0, 1).astype(np.float32)


def judge_portraits(
    editor: Editor, out: Path, cases: list[tuple[str, Pixels]], preset: Preset, report: Callable[[str], None]
) -> DrawnScore:
    """Draw every caption once and write a grid of the first twelve, drawing beside truth."""
    rulers = PocketRulers(torch.device("cpu"))
    rows = [(text, draw(editor, text, number, preset), truth) for number, (text, truth) in enumerate(cases)]
    shares = [[rulers.adherence(to_picture(picture), text) or 0.0 for picture in pair] for text, *pair in rows]
    named, truth = (float(mean) for mean in np.mean(shares, axis=0))
    report(f"{said(preset)}: portraits, {named:.0%} of what captions name is read back")
    _grid(out / f"portraits_{stem(preset)}.png", rows[:12])
    return DrawnScore(preset.steps, preset.true_cfg_scale, preset.lora is not None, len(rows), named, truth)


def _grid(path: Path, rows: list[tuple[str, Pixels, Pixels]], columns: int = 4) -> None:
    width, height, gap = 2 * _SIDE + 2, _SIDE + 44, 6
    lines = -(-len(rows) // columns)
    canvas = Image.new("RGB", (columns * (width + gap) + gap, lines * (height + gap) + gap), "white")
    font = ImageFont.load_default(size=10)
    for number, (text, drawn, truth) in enumerate(rows):
        x, y = gap + number % columns * (width + gap), gap + number // columns * (height + gap)
        words = text.removeprefix("a portrait of a ").split()
        lines_of_text = [" ".join(words[i : i + 8]) for i in range(0, len(words), 8)]
        ImageDraw.Draw(canvas).multiline_text((x, y), "\n".join(lines_of_text), fill="black", font=font, spacing=1)
        for place, picture in enumerate((drawn, truth)):
            canvas.paste(to_picture(picture), (x + place * (_SIDE + 2), y + 44))
    path.parent.mkdir(parents=True, exist_ok=True)
    canvas.save(path)
