"""Short words in a real font (the one that Pillow carries)."""

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from darkroom.pocket.world.colours import NAMES, Pixels, rgb

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


def random_word(rng: np.random.Generator) -> str:
    """Three to five capitals."""
    return "".join(LETTERS[index] for index in rng.integers(len(LETTERS), size=rng.integers(3, 6)))


def write_word(rng: np.random.Generator, image: Pixels) -> Pixels:
    """`image` with a random word in a random named colour, somewhere inside."""
    height, width = image.shape[:2]
    font = ImageFont.load_default(size=int(rng.uniform(16, 34)))
    canvas = Image.new("L", (width, height), 0)
    place = (float(rng.uniform(2, width / 3)), float(rng.uniform(2, height - 40)))
    ImageDraw.Draw(canvas).text(place, random_word(rng), fill=255, font=font)
    mask = np.asarray(canvas, dtype=np.float32)[..., None] / np.float32(255)
    return image * (1 - mask) + rgb(NAMES[rng.integers(len(NAMES))]) * mask
