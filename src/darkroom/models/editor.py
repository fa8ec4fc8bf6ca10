"""Qwen-Image-Edit on the components of diffusers and transformers: condition, denoise, decode.

Written on the components and not on the pipeline's `__call__`, which takes one prompt at a time, encodes
the same pictures anew for each, and lets guidance see no x0. For one prompt and one seed the result equals
`QwenImageEditPlusPipeline`'s bit for bit in float32 on the CPU; in a batch only the order of additions differs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from diffusers.image_processor import VaeImageProcessor
from PIL.Image import Image
from torch import Tensor

from darkroom.models.areas import Areas
from darkroom.models.attention import use_attention
from darkroom.models.cache import Encodings, TensorCache
from darkroom.models.forward import Forward
from darkroom.models.late import Late
from darkroom.models.levers import Levers
from darkroom.models.residency import Resident
from darkroom.models.sight import VisualTokens, encode_text, look, prefix_length
from darkroom.models.single_frame import single_frame
from darkroom.models.vocabulary import Vocabulary
from darkroom.settings import AttentionName
from darkroom.technique.cfg import true_cfg
from darkroom.technique.latents import denormalise, normalise, pack, unpack
from darkroom.technique.sampling import Denoise, Prediction
from darkroom.technique.schedule import Schedule

TOKEN_PIXELS = 16
"""Pixels per side of one transformer token: 8 from the VAE times a patch of 2."""


@dataclass(frozen=True)
class References:
    """One to three pictures, encoded once for any number of prompts, seeds and steps.

    visual: what Qwen2.5-VL sees of them. latents: [1, M, 64], the pictures' tokens one after the other.
    grids: (height, width) of each in tokens. size: (width, height) in pixels of the last, which output follows.
    """

    visual: VisualTokens
    latents: Tensor
    grids: tuple[tuple[int, int], ...]
    size: tuple[int, int]


@dataclass(frozen=True)
class Conditioning:
    """What the transformer is told: per image of the batch its prompt's embeddings, [L_i, D], and one negative."""

    prompts: tuple[Tensor, ...]
    negative: Tensor | None
    references: References


class Editor:
    """The parts of one Qwen-Image-Edit checkpoint, ready to run; holds no state of any job.

    Not thread-safe: one thread runs torch. `max_batch` bounds how many images share one forward. `vocabulary` is
    what a miniature was taught, None for a model that knows language. `levers` is none unless given; `frame_vae` is
    the form of the VAE that encodes and decodes. `encodings`, where given, are kept from job to job.
    Modulation tables and what is compiled are kept in `cache_dir`; tables in `made_ahead` are read, too. A transformer
    that is `Late` (then `residency` is given) is waited for where it is first needed, which no encoding and decoding
    does.
    """

    def __init__(
        self,
        *,
        transformer: Any,
        vae: Any,
        text_encoder: Any,
        processor: Any,
        schedule: Schedule,
        areas: Areas,
        residency: Resident | None = None,
        max_batch: int = 8,
        levers: Levers | None = None,
        attention: AttentionName = "auto",
        vocabulary: Vocabulary | None = None,
        encodings: Encodings | None = None,
        cache_dir: Path | None = None,
        made_ahead: Path | None = None,
    ) -> None:
        self.vae, self.text_encoder = vae, text_encoder
        self.processor, self.schedule, self.areas, self.max_batch = processor, schedule, areas, max_batch
        self.residency = residency or Resident(transformer.device)
        self.vocabulary = vocabulary
        self.encodings = encodings or Encodings(TensorCache(0), None)
        self.levers = levers or Levers.none()
        self.frame_vae = single_frame(vae, share=True) if self.levers.conv2d else vae
        self._attention, self._cache_dir, self._made_ahead = attention, cache_dir, made_ahead
        self._placed: tuple[Any, Forward] | None = None
        self._late = transformer if isinstance(transformer, Late) else None
        if self._late is None:
            self._place(transformer)
        self.prefix = prefix_length(processor.tokenizer)
        self._pixels = VaeImageProcessor(vae_scale_factor=TOKEN_PIXELS)
        self._mean = torch.tensor(vae.config.latents_mean)
        self._std = torch.tensor(vae.config.latents_std)

    # -- a transformer that comes late ----------------------------------------------------------

    @property
    def transformer(self) -> Any:
        """The transformer; waits for it. Raises what its loading raised."""
        return self._settled()[0]

    @property
    def forward(self) -> Forward:
        """Its forward; waits for it likewise."""
        return self._settled()[1]

    @property
    def whole(self) -> bool:
        """Whether the transformer is in its place. May be asked from any thread."""
        return self._placed is not None

    def finish(self) -> Editor:
        """Wait for the transformer; this editor. Raises what its loading raised."""
        self._settled()
        return self

    def came(self, seconds: float) -> bool:
        """Wait at most so long; whether asking for the transformer now returns, or raises, without waiting."""
        return self._late is None or self._late.came(seconds)

    @property
    def problem(self) -> str | None:
        """What `health` should say of a lever that does not work. May be asked from any thread."""
        return None if self._placed is None else self._placed[1].problem

    def _settled(self) -> tuple[Any, Forward]:
        if self._late is not None:
            self._late.deliver(self._place)
            self._late = None
        assert self._placed is not None
        return self._placed

    def _place(self, transformer: Any) -> None:
        if self.levers != Levers.none() or self._attention != "auto":
            use_attention(transformer, self._attention)
        self._placed = transformer, Forward(transformer, self.levers, self._cache_dir, self._made_ahead)

    # -- conditioning ---------------------------------------------------------------------------

    @torch.no_grad()
    def reference(self, images: Sequence[Image], sight_images: Sequence[Image] | None = None) -> References:
        """Encode 1-3 RGB pictures for both of their ways into the model.

        sight_images: what Qwen2.5-VL sees where that is not what the VAE gets, one for each of `images`.
        """
        seen = images if sight_images is None else sight_images
        if len(seen) != len(images):
            raise ValueError(f"{len(images)} pictures have {len(seen)} sight images; each needs one")
        tokens = [self.encodings.latents(image, partial(self._tokens, image)) for image in images]
        visual = self.encodings.visual(seen, partial(self.look, seen))
        sizes = [self.native_size(*image.size) for image in images]
        grids = tuple((height // TOKEN_PIXELS, width // TOKEN_PIXELS) for width, height in sizes)
        return References(visual, torch.cat(tokens, dim=1), grids, images[-1].size)

    def _tokens(self, image: Image) -> Tensor:
        """[1, N, 64]: one picture's latents at the model's own area."""
        width, height = self.native_size(*image.size)
        return pack(self.encode(self._pixels.preprocess(image, height, width)))

    def look(self, images: Sequence[Image]) -> VisualTokens:
        """What Qwen2.5-VL sees of 1-3 RGB pictures, at the family's own area."""
        self.residency.use(self.text_encoder)
        sizes = [fit(self.areas.sight, image.width / image.height) for image in images]
        sights = [
            self._pixels.resize(image, height, width) for image, (width, height) in zip(images, sizes, strict=True)
        ]
        return look(self.text_encoder, self.processor, sights)

    @torch.no_grad()
    def embed(self, prompt: str, references: References) -> Tensor:
        """[L, D]: one prompt read beside the pictures, without the template's prefix. Raises PromptTooLong."""
        return self.encodings.prompt(prompt, references.visual, partial(self._read, prompt, references.visual))

    def _read(self, prompt: str, visual: VisualTokens) -> Tensor:
        self.residency.use(self.text_encoder)
        return encode_text(self.text_encoder, self.processor, prompt, visual)[self.prefix :]

    def condition(
        self, prompts: Sequence[str], references: References, negative_prompt: str | None = None
    ) -> Conditioning:
        """A batch of one image per prompt; equal prompts are embedded once. Raises PromptTooLong.

        negative_prompt: embedded when given (None where CFG is off); both CFG branches see the pictures.
        """
        embedded = {prompt: self.embed(prompt, references) for prompt in dict.fromkeys(prompts)}
        negative = None if negative_prompt is None else self.embed(negative_prompt, references)
        return Conditioning(tuple(embedded[prompt] for prompt in prompts), negative, references)

    def unknown_words(self, prompt: str) -> list[str]:
        """Words of a prompt that this model was never taught, in their order; none for the real family."""
        return [] if self.vocabulary is None else self.vocabulary.unknown(prompt)

    # -- denoising ------------------------------------------------------------------------------

    def output_size(self, references: References, size: tuple[int, int] | None) -> tuple[int, int]:
        """(width, height) in pixels: as asked, or the last picture's aspect at the model's own area."""
        return size or self.native_size(*references.size)

    def native_size(self, width: int, height: int) -> tuple[int, int]:
        """(width, height) in pixels of the model's own area at a picture's aspect."""
        return fit(self.areas.vae, width / height)

    def noise(self, seeds: Sequence[int], width: int, height: int) -> Tensor:
        """[B, N, 64] float32, each image from its own CPU generator, so that a seed means the same everywhere."""
        shape = (1, 1, self.vae.config.z_dim, height // 8, width // 8)
        drawn = [torch.randn(shape, generator=torch.Generator().manual_seed(seed)) for seed in seeds]
        return pack(torch.cat(drawn).transpose(1, 2)).to(self.device)

    def sigmas(self, steps: int, width: int, height: int, shift: float | None = None) -> Tensor:
        """[steps + 1] noise levels for this size, on the CPU; `shift` fixes the log shift (Lightning).

        A level is one number, which arithmetic takes from there to any device without waiting for it.
        The modulation of all of them is computed together, when the first is asked for.
        """
        sigmas = self.levels(steps, width, height, shift)
        self.forward.announce(self._timestep(sigmas[:-1]).tolist())
        return sigmas

    def levels(self, steps: int, width: int, height: int, shift: float | None = None) -> Tensor:
        """`sigmas` to look at, without asking for the transformer."""
        schedule = self.schedule if shift is None else self.schedule.fixed(shift)
        return schedule.sigmas(steps, (height // TOKEN_PIXELS) * (width // TOKEN_PIXELS))

    def denoiser(self, conditioning: Conditioning, width: int, height: int, true_cfg_scale: float = 1.0) -> Denoise:
        """(x [B, N, 64], sigma) -> velocity, for a batch with one prompt per image.

        Two forwards per image and sigma where true_cfg_scale > 1 and a negative prompt was embedded, else one.
        Images whose prompts have equal length share a forward; nothing is ever padded.
        """
        scaled = true_cfg_scale > 1 and conditioning.negative is not None
        grid = (height // TOKEN_PIXELS, width // TOKEN_PIXELS)

        def denoise(x: Tensor, sigma: Tensor) -> Prediction:
            velocity = self._velocity(x, sigma, conditioning.prompts, conditioning.references, grid)
            if scaled and conditioning.negative is not None:
                negatives = (conditioning.negative,) * len(x)
                unconditional = self._velocity(x, sigma, negatives, conditioning.references, grid)
                velocity = true_cfg(velocity, unconditional, true_cfg_scale)
            return Prediction(velocity)

        return denoise

    def _velocity(
        self, x: Tensor, sigma: Tensor, prompts: Sequence[Tensor], references: References, grid: tuple[int, int]
    ) -> Tensor:
        """[B, N, 64] from as few forwards as lengths and `max_batch` allow, in the batch's order."""
        groups = batches([len(prompt) for prompt in prompts], self.max_batch)
        if len(groups) == 1:
            return self._forward(x, sigma, torch.stack(list(prompts)), references, grid)
        velocity = torch.empty_like(x)
        for group in groups:
            embeds = torch.stack([prompts[i] for i in group])
            velocity[group] = self._forward(x[group], sigma, embeds, references, grid).to(velocity)
        return velocity

    def _forward(
        self, x: Tensor, sigma: Tensor, embeds: Tensor, references: References, grid: tuple[int, int]
    ) -> Tensor:
        """One forward of the transformer for prompts of equal length [B, L, D]; no mask, no padding."""
        self.residency.use(self.transformer)
        tokens = torch.cat([x.to(self.dtype), references.latents.expand(len(x), -1, -1)], dim=1)
        grids = (grid, *references.grids)
        return self.forward(tokens, x.shape[1], embeds.to(self.dtype), self._timestep(sigma), grids)

    def _timestep(self, sigma: Tensor) -> Tensor:
        """The transformer's timestep in its dtype; the detour over 1000, which rounds, is diffusers'."""
        return (sigma * 1000).to(self.dtype) / 1000

    # -- pixels ---------------------------------------------------------------------------------

    @torch.no_grad()
    def encode(self, pixels: Tensor) -> Tensor:
        """Pixels [B, 3, H, W] in -1…1 (sides multiples of 16) -> normalised latents [B, 16, 1, H/8, W/8]."""
        video = pixels.unsqueeze(2).to(self.device, self.dtype)
        moments = self.frame_vae.quant_conv(self.frame_vae.encoder(video))
        mean = moments[:, : self.vae.config.z_dim]
        return normalise(mean, *self._statistics(mean))

    @torch.no_grad()
    def decode(self, tokens: Tensor, width: int, height: int) -> Tensor:
        """Tokens [B, N, 64] -> pixels [B, 3, height, width] in -1…1, float32; one image at a time in memory."""
        return torch.cat([self._decode_one(tokens[i : i + 1], width, height) for i in range(len(tokens))])

    def _decode_one(self, tokens: Tensor, width: int, height: int) -> Tensor:
        latents = unpack(tokens, height // TOKEN_PIXELS, width // TOKEN_PIXELS).to(self.dtype)
        latents = denormalise(latents, *self._statistics(latents))
        # Without the feature cache, which carries frames of a video: equal bit for bit for one frame.
        pixels = self.frame_vae.decoder(self.frame_vae.post_quant_conv(latents))[:, :, 0]
        return torch.as_tensor(pixels.clamp(-1.0, 1.0).float())

    def _statistics(self, like: Tensor) -> tuple[Tensor, Tensor]:
        return self._mean.to(like), self._std.to(like)

    @property
    def device(self) -> torch.device:
        """Where the model runs."""
        return self.residency.device

    @property
    def dtype(self) -> torch.dtype:
        """What the model computes in, read off the VAE, which is never stored in less."""
        dtype: torch.dtype = self.vae.dtype
        return dtype


def fit(area: int, ratio: float) -> tuple[int, int]:
    """(width, height) of about `area` pixels at width / height = ratio, in multiples of 32 as diffusers rounds."""
    width = (area * ratio) ** 0.5
    height = width / ratio
    return max(32, round(width / 32) * 32), max(32, round(height / 32) * 32)


def batches(lengths: Sequence[int], most: int) -> list[list[int]]:
    """Positions grouped by equal length, in order of appearance, at most `most` to a group."""
    groups: dict[int, list[int]] = {}
    for position, length in enumerate(lengths):
        groups.setdefault(length, []).append(position)
    return [group[i : i + most] for group in groups.values() for i in range(0, len(group), most)]
