"""Real photographs: those that scikit-image and scikit-learn ship, cropped and jittered."""

from functools import cache
from importlib.resources import files

import cv2
import numpy as np

from darkroom.pocket.world.colours import Pixels

# (package, file). The held-out ones are never seen in training.
TRAINING = (
    ("skimage.data", "astronaut.png"),
    ("skimage.data", "coffee.png"),
    ("skimage.data", "rocket.jpg"),
    ("skimage.data", "motorcycle_left.png"),
    ("skimage.data", "hubble_deep_field.jpg"),
    ("skimage.data", "ihc.png"),
    ("skimage.data", "retina.jpg"),
    ("sklearn.datasets.images", "china.jpg"),
)
HELD_OUT = (("skimage.data", "chelsea.png"), ("sklearn.datasets.images", "flower.jpg"))


@cache
def photo(package: str, name: str) -> Pixels:
    """[H, W, 3] in [0, 1], its shorter side at most 400 pixels."""
    data = np.frombuffer(files(package).joinpath(name).read_bytes(), np.uint8)
    image = np.asarray(cv2.imdecode(data, cv2.IMREAD_COLOR))[..., ::-1]
    scale = min(1.0, 400 / min(image.shape[:2]))
    size = (round(image.shape[1] * scale), round(image.shape[0] * scale))
    small = cv2.resize(np.ascontiguousarray(image), size, interpolation=cv2.INTER_AREA)
    return np.asarray(small, dtype=np.float32) / np.float32(255)


def crop(rng: np.random.Generator, width: int, height: int, held_out: bool) -> Pixels:
    """A random crop at a random scale, perhaps mirrored, gain and gamma jittered; [height, width, 3] in [0, 1]."""
    names = HELD_OUT if held_out else TRAINING
    image = photo(*names[rng.integers(len(names))])
    limit = min(image.shape[0] / height, image.shape[1] / width)
    scale = float(np.exp(rng.uniform(np.log(min(1.0, limit)), np.log(limit))))
    rows, columns = round(height * scale), round(width * scale)
    top = int(rng.integers(image.shape[0] - rows + 1))
    left = int(rng.integers(image.shape[1] - columns + 1))
    piece = image[top : top + rows, left : left + columns]
    piece = np.asarray(cv2.resize(piece, (width, height), interpolation=cv2.INTER_AREA), dtype=np.float32)
    if rng.random() < 0.5:
        piece = piece[:, ::-1]
    return _jitter(rng, piece)


def _jitter(rng: np.random.Generator, image: Pixels) -> Pixels:
    gain = rng.uniform(0.85, 1.1, size=3) if rng.random() < 0.5 else rng.uniform(0.85, 1.1)
    gamma = np.exp(rng.uniform(-0.25, 0.25))
    return np.clip(np.power(image, gamma) * gain, 0, 1).astype(np.float32)
