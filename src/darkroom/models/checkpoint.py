"""A folder of weights as the shelf sees it: which parts it has, what they weigh, and the parts themselves."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from concurrent.futures import Future
from pathlib import Path
from typing import Any, Protocol

import torch

from darkroom.models import packing
from darkroom.models.folding import detach
from darkroom.models.packing.manifest import check_precision
from darkroom.models.parts import LOADERS, expected_weight
from darkroom.models.specs import ModelSpec, Profile
from darkroom.models.weights import fingerprint, locate, verify, weights_digest


class Checkpoint(Protocol):
    """Where parts come from."""

    cache: Path | None
    """A cache folder beside the weights, with modulation tables made ahead; None where there is none."""

    def key(self, part: str) -> tuple[Any, ...]:
        """Equal for equal parts, wherever they lie."""

    def device_bytes(self, part: str) -> int:
        """What the part will take on the device; nothing is loaded."""

    def load(self, devices: Mapping[str, torch.device]) -> Mapping[str, Future[Any]]:
        """The parts on their way, in evaluation mode, each to its device. They, or this, raise ModelNotReady."""


class Unpacked:
    """diffusers' layout: each part by its class's `from_pretrained`, one after the other, quantised on the CPU.

    All are there when `load` returns: `from_pretrained` patches torch for the whole process, so that no other thread
    could use a model meanwhile.
    """

    cache: Path | None = None

    def __init__(self, folder: Path, profile: Profile) -> None:
        verify(folder)
        self.folder, self.precision = folder, profile.precision
        # The machine's own memory is not won by taking modulation out of the module; a card's is.
        self.folded = profile.levers.fold and profile.device == "cuda"

    def key(self, part: str) -> tuple[Any, ...]:
        return (part, fingerprint(self.folder / part))

    def device_bytes(self, part: str) -> int:
        weight = expected_weight(self.folder / part, part, self.precision)
        return weight.device + (0 if self.folded else weight.modulation)

    def load(self, devices: Mapping[str, torch.device]) -> Mapping[str, Future[Any]]:
        return {part: _here(self._part(part).to(device)) for part, device in devices.items()}

    def _part(self, part: str) -> Any:
        module = LOADERS[part](self.folder / part, self.precision)
        if part == "transformer" and self.folded:
            # Before it goes to the device, which need never hold this third.
            detach(module, hashlib.sha256(repr((self.key(part), self.precision)).encode()).hexdigest())
        return module


class Packed:
    """What `darkroom pack` wrote: all parts streamed side by side, modulation always folded.

    Raises ModelNotReady for another precision than the profile's.
    """

    def __init__(self, folder: Path, profile: Profile) -> None:
        self.folder = folder
        self.cache: Path | None = folder / packing.CACHE
        self.manifest = packing.read_manifest(folder)
        check_precision(folder, self.manifest, profile.precision, profile.name)

    def key(self, part: str) -> tuple[Any, ...]:
        return (part, self.manifest.fingerprint(part))

    def device_bytes(self, part: str) -> int:
        return self.manifest.size(part)

    def load(self, devices: Mapping[str, torch.device]) -> Mapping[str, Future[Any]]:
        return packing.load(self.folder, devices).parts


def open_checkpoint(folder: Path, profile: Profile) -> Checkpoint:
    """The folder as what it is: packed where it has a manifest."""
    return Packed(folder, profile) if packing.is_packed(folder) else Unpacked(folder, profile)


def unpacked(spec: ModelSpec, part: str = "") -> Path | None:
    """The folder of a part's weights, or of a vision model's, which is one part.

    None for a packed artifact, which holds them in another form. Raises ModelNotReady as `locate`.
    """
    folder = locate(spec, (part,) if part else ())
    return None if packing.is_packed(folder) else folder / part


def weights_of(spec: ModelSpec, part: str) -> str | None:
    """SHA-256 of a part's weights as `weights_digest` has it; None as `unpacked`."""
    folder = unpacked(spec, part)
    return None if folder is None else weights_digest(folder)


def _here(module: Any) -> Future[Any]:
    there: Future[Any] = Future()
    there.set_result(module)
    return there
