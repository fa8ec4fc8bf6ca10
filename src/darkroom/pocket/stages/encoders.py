"""What the small encoders' stages share: worn pictures, the training loop, the file."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file
from torch import Tensor, nn

from darkroom.pocket.stages.checkpoint import keep, resume, written_beside
from darkroom.pocket.stages.course import Course
from darkroom.pocket.stages.schedule import warm_then_linear
from darkroom.pocket.world.colours import Pixels

Range = tuple[float, float]


@dataclass(frozen=True)
class Wear:
    """What is done to pictures at random: blur (sigma in pixels) and noise with probability `chance`, light always."""

    chance: float
    blur: Range
    noise: Range
    light: Range


def worn(rng: np.random.Generator, image: NDArray[np.uint8], wear: Wear) -> Pixels:
    """[H, W, 3] in 0…1."""
    picture = np.asarray(image, dtype=np.float32) / np.float32(255)
    if rng.random() < wear.chance:
        picture = np.asarray(cv2.GaussianBlur(picture, (0, 0), rng.uniform(*wear.blur)), dtype=np.float32)
    if rng.random() < wear.chance:
        picture = picture + rng.normal(0, rng.uniform(*wear.noise), picture.shape).astype(np.float32)
    dimmed: Pixels = np.clip(picture * np.float32(rng.uniform(*wear.light)), 0, 1).astype(np.float32)
    return dimmed


def fit(
    name: str,
    trained: Mapping[str, nn.Parameter],
    loss_of: Callable[[int], Tensor],
    steps: int,
    lr: float,
    weight_decay: float,
    checkpoint: Path,
    course: Course,
) -> list[float]:
    """The loss of every step of this call, from `checkpoint` on where it exists; `loss_of` makes that of step n."""
    optimizer = torch.optim.AdamW(trained.values(), lr, weight_decay=weight_decay)
    losses: list[float] = []

    def kept(done: int) -> None:
        keep(checkpoint, done, trained, [optimizer])
        course.report(f"{name} {done}/{steps}: loss {np.mean(losses[-course.every :]):.3f}")

    for step in course.steps(name, resume(checkpoint, trained, [optimizer]), steps, kept):
        for group in optimizer.param_groups:
            group["lr"] = lr * warm_then_linear(step, steps, warmup=40)
        loss = loss_of(step)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    return losses


def save_half(encoder: nn.Module, path: Path) -> None:
    """In float16, which what it says does not notice."""
    with written_beside(path) as unfinished:
        save_file({name: value.half().contiguous() for name, value in encoder.state_dict().items()}, unfinished)
        unfinished.chmod(0o644)
