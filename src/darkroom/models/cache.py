"""What a worker remembers of pictures and prompts between jobs, by content and up to a number of bytes.

Kept on the CPU: the tensors are small (about 6 MB for an edit of the real family, copied to the device in under a
millisecond), while a card's memory is what its profile runs short of. A hit is the very tensor that the encoder made,
so a cached edit equals an uncached one bit for bit. LoRAs go on the transformer alone, which no encoding passes
through; what an encoding depends on is named in its key: the model, the pictures and the text.
"""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from PIL.Image import Image
from torch import Tensor

from darkroom.models.sight import VisualTokens

MIB = 2**20


@dataclass(frozen=True)
class Counts:
    """Look-ups that found their tensors, and those that had an encoder run."""

    hits: int = 0
    misses: int = 0

    def since(self, earlier: Counts) -> Counts:
        """What came on top of `earlier`."""
        return Counts(self.hits - earlier.hits, self.misses - earlier.misses)


@dataclass(frozen=True)
class _Kept:
    """Tensors on the CPU, each owning its memory, and the device that they came from."""

    tensors: tuple[Tensor, ...]
    device: torch.device
    bytes: int


class TensorCache:
    """Tensors by key; beyond `limit_bytes` the least recently used go. 0 keeps nothing.

    `get` runs on the torch thread only; `report` may be called from any.
    """

    def __init__(self, limit_bytes: int) -> None:
        self.limit_bytes = limit_bytes
        self._kept: OrderedDict[Hashable, _Kept] = OrderedDict()
        self._bytes = 0
        self._counts = Counts()
        self._lock = threading.Lock()

    def get(self, key: Hashable, make: Callable[[], tuple[Tensor, ...]]) -> tuple[Tensor, ...]:
        """The tensors of `key`, made now where they are not known. They must not be changed in place."""
        with self._lock:
            kept = self._kept.get(key)
            if kept is not None:
                self._kept.move_to_end(key)
            self._counts = Counts(self._counts.hits + (kept is not None), self._counts.misses + (kept is None))
        if kept is not None:
            return tuple(tensor.to(kept.device) for tensor in kept.tensors)
        tensors = make()
        self._keep(key, tensors)
        return tensors

    @property
    def counts(self) -> Counts:
        """Hits and misses so far."""
        return self._counts

    def report(self) -> dict[str, Any]:
        """What `health` says: entries, size and use, as JSON values."""
        with self._lock:
            return {
                "entries": len(self._kept),
                "mib": round(self._bytes / MIB, 4),
                "limit_mib": round(self.limit_bytes / MIB, 4),
                "hits": self._counts.hits,
                "misses": self._counts.misses,
            }

    def _keep(self, key: Hashable, tensors: tuple[Tensor, ...]) -> None:
        size = sum(tensor.numel() * tensor.element_size() for tensor in tensors)
        if size > self.limit_bytes:
            return
        kept = _Kept(tuple(_own(tensor) for tensor in tensors), tensors[0].device, size)
        with self._lock:
            self._kept[key] = kept
            self._bytes += size
            while self._bytes > self.limit_bytes:
                self._bytes -= self._kept.popitem(last=False)[1].bytes


class Encodings:
    """One model's encodings in a cache that all models of a worker share; a cache of no bytes costs no hashing.

    model: whatever decides what its encoders say (weights, tokenizer, sizes); equal models share their encodings.
    """

    def __init__(self, cache: TensorCache, model: Hashable) -> None:
        self._cache, self._model = cache, model

    @property
    def counts(self) -> Counts:
        """Hits and misses of the whole cache so far."""
        return self._cache.counts

    def latents(self, image: Image, make: Callable[[], Tensor]) -> Tensor:
        """A picture's way through the VAE."""
        if not self._cache.limit_bytes:
            return make()
        return self._cache.get((self._model, "latents", picture_key(image)), lambda: (make(),))[0]

    def visual(self, images: Sequence[Image], make: Callable[[], VisualTokens]) -> VisualTokens:
        """The pictures' way through the vision tower, together as they were looked at."""
        if not self._cache.limit_bytes:
            return make()

        def looked() -> tuple[Tensor, Tensor]:
            visual = make()
            return visual.tokens, visual.grids

        tokens, grids = self._cache.get((self._model, "visual", *map(picture_key, images)), looked)
        return VisualTokens(tokens, grids)

    def prompt(self, text: str, visual: VisualTokens, make: Callable[[], Tensor]) -> Tensor:
        """A prompt read beside visual tokens, which count by their values: a bridge's are not the model's own."""
        if not self._cache.limit_bytes:
            return make()
        key = (self._model, "prompt", text, tensor_key(visual.tokens), tensor_key(visual.grids))
        return self._cache.get(key, lambda: (make(),))[0]


def picture_key(image: Image) -> str:
    """SHA-256 of a picture's mode, size and pixels."""
    return hashlib.sha256(f"{image.mode} {image.size} ".encode() + image.tobytes()).hexdigest()


def tensor_key(tensor: Tensor) -> str:
    """SHA-256 of a tensor's type, shape and values."""
    values = tensor.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes()
    return hashlib.sha256(f"{tensor.dtype} {tuple(tensor.shape)} ".encode() + values).hexdigest()


def _own(tensor: Tensor) -> Tensor:
    """A copy on the CPU that keeps no larger tensor alive, as a view would."""
    return tensor.detach().to("cpu", copy=True, memory_format=torch.contiguous_format)
