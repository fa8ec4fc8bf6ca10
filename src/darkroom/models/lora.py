"""LoRAs put on for one job and taken off after it, through diffusers' loader."""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

from safetensors.torch import save
from torch import Tensor

from darkroom.errors import FetchFailed, InputTooLarge, InvalidInput, ModelNotReady
from darkroom.faults import is_the_devices
from darkroom.models.folding import touches_modulation, undress, wear
from darkroom.models.hub import Tell, download, unheard
from darkroom.models.lora_alpha import settings_of, with_own_alpha
from darkroom.models.presets import LoraFile
from darkroom.models.weights import verify

ABOUT = "about.json"
"""Beside a LoRA that was made here: what it was made for."""
BASE = "base"
"""There: SHA-256 of the transformer's weights."""
CALLERS = "callers"
"""A folder in the hub's cache, itself such a cache: what callers have named, fetched without the owner's token."""


@dataclass(frozen=True)
class Lora:
    """Weights of one LoRA, its strength, and the request field that an error names."""

    weights: dict[str, Tensor]
    scale: float
    field: str

    @cached_property
    def modulation_digest(self) -> str:
        """Tells LoRAs apart by what they do to modulation; the same for all that leave it alone."""
        touching = {name: tensor.contiguous() for name, tensor in self.weights.items() if touches_modulation(name)}
        return hashlib.sha256(repr(self.scale).encode() + save(touching)).hexdigest()


def read(data: bytes, scale: float, field: str) -> Lora:
    """A LoRA from the bytes of a safetensors file. Raises InvalidInput for pickles and everything else."""
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        weights = load(data)
    except SafetensorError:
        kind = "a pickle, which can run code," if data[:2] in (b"PK", b"\x80\x02", b"\x80\x04") else "something else"
        raise InvalidInput(f"{field} must be a safetensors file; it is {kind} and is refused", field=field) from None
    try:
        return Lora(with_own_alpha(weights, settings_of(data)), scale, field)
    except (ValueError, TypeError, AttributeError) as error:
        raise InvalidInput(f"{field}: what the file's header says of its alpha cannot be read", field=field) from error


def from_folder(folder: Path | None, name: str, scale: float, field: str) -> Lora | None:
    """A LoRA of the worker's own folder (DARKROOM_LORA_DIR) by file name, or None where there is no such file."""
    if folder is None or Path(name).name != name:
        return None
    path = folder / name
    return read(path.read_bytes(), scale, field) if path.is_file() else None


@lru_cache(maxsize=2)
def of_preset(file: LoraFile) -> Lora:
    """A preset's LoRA, read once and kept: it is the worker's own choice.

    Raises FetchFailed, InvalidInput, or ModelNotReady where it is one of this machine's folders.
    """
    folder = Path(file.repo)
    if folder.is_absolute():
        verify(folder)
        if not (folder / file.file).is_file():
            raise ModelNotReady(f"{folder.name}/{file.file} is missing; `darkroom pocket train` makes it")
        return read((folder / file.file).read_bytes(), 1.0, "preset")
    return from_hub(file, 1.0, "preset", None)


def made_for(folder: Path) -> str | None:
    """SHA-256 of the transformer's weights that a folder's LoRA was made for; None where nothing there says so."""
    about = folder / ABOUT
    told = json.loads(about.read_text()) if about.is_file() else None
    return str(told[BASE]) if isinstance(told, dict) and BASE in told else None


def from_hub(file: LoraFile, scale: float, field: str, most_bytes: int | None, tell: Tell = unheard) -> Lora:
    """A LoRA from the hub's cache, downloaded on first use. Raises as `downloaded` does."""
    return read(downloaded(file, field, most_bytes, tell).read_bytes(), scale, field)


def downloaded(file: LoraFile, field: str, most_bytes: int | None, tell: Tell) -> Path:
    """A file's place on this machine.

    most_bytes: the limit for a caller's choice, which is also fetched without the owner's token and kept apart from
    what that has opened; None trusts it. Raises FetchFailed, InputTooLarge, InvalidInput, and what `tell` raises.
    """
    from huggingface_hub import constants, try_to_load_from_cache
    from huggingface_hub.errors import (
        EntryNotFoundError,
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
    )

    # A caller's choice must not open the owner's private repositories, nor what of them has been downloaded before.
    token, cache = (None, None) if most_bytes is None else (False, Path(constants.HF_HUB_CACHE) / CALLERS)
    try:
        cached = try_to_load_from_cache(file.repo, file.file, cache_dir=cache, revision=file.revision)
        kept = Path(cached) if isinstance(cached, str) else None
        if most_bytes is not None:
            size = _public_bytes(file) if kept is None else kept.stat().st_size
            if size is None or size > most_bytes:
                raise InputTooLarge(f"{field} is larger than the limit of {most_bytes / 2**20:.0f} MiB", field=field)
        return kept or download(file.repo, file.file, file.revision, token, cache, tell)
    except LocalEntryNotFoundError as error:  # the hub's word for: no network and no copy here
        raise FetchFailed(f"{field}: the hub cannot be reached", field=field) from error
    except (RepositoryNotFoundError, EntryNotFoundError, HFValidationError) as error:
        raise InvalidInput(f"{field}: there is no {file.file!r} in {file.repo!r} on the hub", field=field) from error
    except (HfHubHTTPError, OSError) as error:
        raise FetchFailed(f"{field}: the hub did not deliver {file.repo!r}", field=field) from error


def _public_bytes(file: LoraFile) -> int | None:
    """Its size as the hub tells anybody."""
    from huggingface_hub import get_hf_file_metadata, hf_hub_url

    return get_hf_file_metadata(hf_hub_url(file.repo, file.file, revision=file.revision), token=False).size


def hub_file(path: str, field: str) -> LoraFile:
    """'owner/name/folder/file.safetensors' -> its repository and file. Raises InvalidInput for any other form."""
    owner, _, rest = path.partition("/")
    name, _, file = rest.partition("/")
    if not (owner and name and file.endswith(".safetensors")) or ".." in path:
        raise InvalidInput(
            f"{field} must be an https:// or s3:// address, or owner/name/file.safetensors on Hugging Face", field=field
        )
    return LoraFile(f"{owner}/{name}", file)


@contextmanager
def worn(transformer: Any, loras: Sequence[Lora]) -> Iterator[None]:
    """Put the LoRAs on for the block; afterwards the transformer is as it was, whatever happened inside.

    Raises InvalidInput naming the field where a LoRA does not fit this model.
    """
    if not loras:
        yield
        return
    names = [f"job_{i}" for i in range(len(loras))]
    followers = getattr(transformer, "followers", None)
    try:
        for name, lora in zip(names, loras, strict=True):
            if followers is not None:
                followers.check(lora)
            _put_on(transformer, lora, name)
        # One that touches nothing but folded modulation has no layer in the transformer.
        scales = {n: lora.scale for n, lora in zip(names, loras, strict=True) if n in _adapters(transformer)}
        if scales:
            transformer.set_adapters(list(scales), list(scales.values()))
        if followers is not None:
            followers.wear(loras)
        yield
    finally:
        _take_off(transformer)
        if followers is not None:
            followers.undress()


def _put_on(transformer: Any, lora: Lora, name: str) -> None:
    from diffusers.loaders import QwenImageLoraLoaderMixin

    try:
        weights = QwenImageLoraLoaderMixin.lora_state_dict(dict(lora.weights))
        if not weights or not all("lora" in key for key in weights):
            raise ValueError("no LoRA matrices")
        weights = wear(transformer, weights, lora.scale, lora.modulation_digest)
        if not weights:
            return
        with warnings.catch_warnings():
            # On torchao's matrices; a LoRA is worn beside them here and never merged.
            warnings.filterwarnings("ignore", "TorchaoLoraLinear was instantiated without")
            QwenImageLoraLoaderMixin.load_lora_into_transformer(weights, transformer, adapter_name=name)
        if name not in _adapters(transformer):
            raise ValueError("no layer of this name")
    except (ValueError, KeyError, RuntimeError, AttributeError, TypeError) as error:
        if is_the_devices(error):
            raise
        raise InvalidInput(f"{lora.field} is not a LoRA for this model", field=lora.field) from error


def _adapters(transformer: Any) -> Collection[str]:
    adapters: Collection[str] = getattr(transformer, "peft_config", {})
    return adapters


def _take_off(transformer: Any) -> None:
    """Remove every adapter layer, also those of a LoRA that did not load to its end."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    undress(transformer)
    if any(isinstance(module, BaseTunerLayer) for module in transformer.modules()):
        transformer.unload_lora()
