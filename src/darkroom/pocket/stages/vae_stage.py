"""Stage 1: the VAE learns to write and read pictures of the pocket world."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
from diffusers import AutoencoderKLQwenImage
from numpy.typing import NDArray
from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt
from torch import Tensor
from torch.nn import functional

from darkroom.models.single_frame import absorb, single_frame
from darkroom.pocket.stages.checkpoint import keep, resume
from darkroom.pocket.stages.compiling import compiled
from darkroom.pocket.stages.course import Course
from darkroom.pocket.stages.fast_numbers import autocast
from darkroom.pocket.stages.muon import Muon
from darkroom.pocket.stages.schedule import warm_then_linear
from darkroom.pocket.stages.vae_start import start_vae
from darkroom.pocket.world.photos import crop
from darkroom.pocket.world.scenes import draw_scene
from darkroom.pocket.world.tones import TONES
from darkroom.pocket.world.words import write_word


@dataclass(frozen=True)
class VaeRecipe:
    """Crops of `crop` pixels from a pool of `pool` pictures; a step is one batch."""

    steps: PositiveInt = 3000
    batch: PositiveInt = 32
    crop: Annotated[int, Field(gt=0, le=128, multiple_of=8)] = 64
    pool: PositiveInt = 5000
    photos: Annotated[float, Field(ge=0, le=1)] = 0.4
    # Relative to each latent's spread: the decoder learns to bear a transformer's small errors.
    latent_noise: NonNegativeFloat = 0.05
    decoder_lr: PositiveFloat = 0.01
    encoder_lr: PositiveFloat = 0.003
    vector_lr: PositiveFloat = 1e-3
    seed: NonNegativeInt = 0
    compiled: bool = True


def train_vae(
    vae: AutoencoderKLQwenImage,
    recipe: VaeRecipe,
    checkpoint: Path,
    course: Course,
    until_step: int | None = None,
) -> list[float]:
    """Train `vae` in place, its latents' mean and std included; returns the loss of every step made in this call.

    Continues from `checkpoint` where it exists, and ends with the weights of an uninterrupted run. `until_step` ends
    this call early, as a kill would.
    """
    pool = picture_pool(recipe, course)
    lean = single_frame(vae)
    start_vae(lean, _tensor(pool[:256]))
    losses = _fit("vae", lean.to(course.device), pool, recipe, checkpoint, course, until_step)
    absorb(vae, lean)
    _measure_latents(vae, lean, pool)
    return losses


def polish_decoder(vae: AutoencoderKLQwenImage, recipe: VaeRecipe, checkpoint: Path, course: Course) -> list[float]:
    """Train the decoder alone, in place: the latents keep their meaning, so a trained transformer stays right.

    Begins at full learning rates and ends near zero, like a stage of its own; returns the loss of this call's steps.
    """
    pool = picture_pool(recipe, course)
    lean = single_frame(vae)
    lean.encoder.requires_grad_(False)
    lean.quant_conv.requires_grad_(False)
    losses = _fit("decoder", lean.to(course.device), pool, recipe, checkpoint, course)
    absorb(vae, lean)
    return losses


def _fit(
    stage: str,
    lean: AutoencoderKLQwenImage,
    pool: NDArray[np.uint8],
    recipe: VaeRecipe,
    checkpoint: Path,
    course: Course,
    until_step: int | None = None,
) -> list[float]:
    """Train `lean` in place, from `checkpoint` on where it exists; returns the loss of this call's steps."""
    optimizers = _optimizers(lean, recipe)
    round_trip = compiled(_round_trip, course.device, dynamic=False) if recipe.compiled else _round_trip
    losses: list[float] = []

    def kept(done: int) -> None:
        keep(checkpoint, done, lean.state_dict(), optimizers)
        course.report(f"{stage} {done}/{recipe.steps}: loss {np.mean(losses[-course.every :]):.4f}")

    first = resume(checkpoint, lean.state_dict(), optimizers)
    for step in course.steps(stage, first, recipe.steps, kept, until_step):
        losses.append(_step(lean, round_trip, optimizers, pool, recipe, step))
    return losses


def picture_pool(recipe: VaeRecipe, course: Course) -> NDArray[np.uint8]:
    """[pool, 128, 128, 3]: scenes and photos, some with a word, some in another tone."""
    return np.stack(list(course.drawn(partial(_picture, recipe.seed, recipe.photos), range(recipe.pool))))


def _picture(seed: int, photos: float, number: int) -> NDArray[np.uint8]:
    rng = np.random.default_rng((seed, 1, number))
    image = crop(rng, 128, 128, held_out=False) if rng.random() < photos else draw_scene(rng).render()
    if rng.random() < 0.08:
        image = write_word(rng, image)
    if rng.random() < 0.25:
        image = list(TONES.values())[rng.integers(len(TONES))](image)
    return np.round(image * 255).astype(np.uint8)


def _tensor(images: NDArray[np.uint8]) -> Tensor:
    return torch.from_numpy(images).permute(0, 3, 1, 2).float() / 127.5 - 1


def _batch(pool: NDArray[np.uint8], recipe: VaeRecipe, step: int) -> Tensor:
    """[B, 3, crop, crop] in [−1, 1]: what step `step` sees, whatever came before."""
    rng = np.random.default_rng((recipe.seed, 2, step))
    pieces = []
    for index in rng.integers(len(pool), size=recipe.batch):
        top, left = rng.integers(pool.shape[1] - recipe.crop + 1, size=2)
        piece = pool[index, top : top + recipe.crop, left : left + recipe.crop]
        pieces.append(piece if rng.random() < 0.5 else piece[:, ::-1])
    return _tensor(np.stack(pieces))


def _round_trip(lean: Any, images: Tensor, noise: Tensor) -> Tensor:
    """Pictures [B, 3, H, W] through the latents, disturbed by `noise` in units of their spread."""
    latents = lean.quant_conv(lean.encoder(images[:, :, None]))[:, : noise.shape[1]]
    spread = latents.detach().float().std(dim=(0, 2, 3, 4), keepdim=True)
    out: Tensor = lean.decoder(lean.post_quant_conv(latents + noise * spread))
    return out[:, :, 0]


def _step(
    lean: AutoencoderKLQwenImage,
    round_trip: Callable[..., Tensor],
    optimizers: list[torch.optim.Optimizer],
    pool: NDArray[np.uint8],
    recipe: VaeRecipe,
    step: int,
) -> float:
    device = lean.device
    images = _batch(pool, recipe, step).to(device)
    generator = torch.Generator().manual_seed(recipe.seed * 1_000_003 + step)
    cells = recipe.crop // 8
    noise = torch.randn(len(images), 16, 1, cells, cells, generator=generator) * recipe.latent_noise
    with autocast(device):
        out = round_trip(lean, images, noise.to(device))
    loss = _loss(out.float(), images)
    factor = warm_then_linear(step, recipe.steps, warmup=50)
    loss.backward()
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = group["peak"] * factor
        optimizer.step()
        optimizer.zero_grad()
    return float(loss.detach())


def _loss(out: Tensor, images: Tensor) -> Tensor:
    """L1 + squared error + half the L1 of the differences between neighbours (sharp edges)."""
    error = out - images
    edges = error.diff(dim=-1).abs().mean() + error.diff(dim=-2).abs().mean()
    return functional.l1_loss(out, images) + 2 * error.pow(2).mean() + 0.5 * edges


def _optimizers(lean: AutoencoderKLQwenImage, recipe: VaeRecipe) -> list[torch.optim.Optimizer]:
    used = [(name, p) for name, p in lean.named_parameters() if "time_conv" not in name and p.requires_grad]
    encoder = [p for name, p in used if p.ndim > 1 and p.numel() > 64 and name.startswith(("encoder", "quant"))]
    decoder = [p for name, p in used if p.ndim > 1 and p.numel() > 64 and not name.startswith(("encoder", "quant"))]
    matrices = {id(p) for p in encoder + decoder}
    vectors = [p for _, p in used if id(p) not in matrices]
    muon = Muon([{"params": encoder, "peak": recipe.encoder_lr}, {"params": decoder, "peak": recipe.decoder_lr}])
    adam = torch.optim.AdamW([{"params": vectors, "peak": recipe.vector_lr}], weight_decay=0.0, betas=(0.9, 0.98))
    return [muon, adam]


def _measure_latents(vae: AutoencoderKLQwenImage, lean: AutoencoderKLQwenImage, pool: NDArray[np.uint8]) -> None:
    """Write the latents' mean and std over the pool into the config, where pipelines read them."""
    with torch.no_grad():
        images = _tensor(pool[:512])[:, :, None]
        parts = [lean.quant_conv(lean.encoder(part.to(lean.device)))[:, :16] for part in images.split(32)]
        latents = torch.cat(parts).cpu()
    vae.register_to_config(
        latents_mean=[round(float(v), 5) for v in latents.mean(dim=(0, 2, 3, 4))],
        latents_std=[round(float(v), 5) for v in latents.std(dim=(0, 2, 3, 4))],
    )
