"""Pictures for the eye: what was given, result and target side by side, with the instruction above."""

from pathlib import Path

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from darkroom.pocket.judging.samples import to_picture
from darkroom.pocket.world.colours import Pixels
from darkroom.pocket.world.edit import Edit

_CAPTION = 16
_GAP = 6


def draw_grid(path: Path, rows: list[tuple[Edit, Pixels, bool]], columns: int = 3) -> None:
    """Write a PNG of (edit, result, whether it is right), `columns` examples to a line."""
    examples = [_example(*row) for row in rows]
    width, height = examples[0].size
    lines = -(-len(examples) // columns)
    canvas = Image.new("RGB", (columns * (width + _GAP) + _GAP, lines * (height + _GAP) + _GAP), "white")
    for number, example in enumerate(examples):
        line, column = divmod(number, columns)
        canvas.paste(example, (_GAP + column * (width + _GAP), _GAP + line * (height + _GAP)))
    path.parent.mkdir(parents=True, exist_ok=True)
    canvas.save(path)


def _example(edit: Edit, result: Pixels, right: bool) -> Image.Image:
    pictures = [to_picture(np.asarray(part)) for part in (*_given(edit), result, edit.target)]
    width, height = pictures[0].size
    example = Image.new("RGB", (len(pictures) * (width + 2) - 2, height + _CAPTION), "white")
    colour = "black" if right else "#c00000"
    font = ImageFont.load_default(size=11)
    ImageDraw.Draw(example).text((0, 1), edit.instruction, fill=colour, font=font)
    for number, picture in enumerate(pictures):
        example.paste(picture, (number * (width + 2), _CAPTION))
    return example


def _given(edit: Edit) -> tuple[Pixels, ...]:
    """What the model was shown, at the source's size."""
    if edit.sight is None:
        return edit.sources
    height, width = edit.source.shape[:2]
    return (np.asarray(cv2.resize(edit.sight, (width, height), interpolation=cv2.INTER_AREA)),)
