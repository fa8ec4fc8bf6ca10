"""LoRAs put on for one job and taken off after it, through diffusers' loader."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from darkroom.errors import FetchFailed, InvalidInput
from darkroom.models.presets import LoraFile


@dataclass(frozen=True)
class Lora:
    """Weights of one LoRA, its strength, and the request field that an error names."""

    weights: dict[str, Tensor]
    scale: float
    field: str


def read(data: bytes, scale: float, field: str) -> Lora:
    """A LoRA from the bytes of a safetensors file. Raises InvalidInput for pickles and everything else."""
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        return Lora(load(data), scale, field)
    except SafetensorError:
        kind = "a pickle, which can run code," if data[:2] in (b"PK", b"\x80\x02", b"\x80\x04") else "something else"
        raise InvalidInput(f"{field} must be a safetensors file; it is {kind} and is refused", field=field) from None


def from_folder(folder: Path | None, name: str, scale: float, field: str) -> Lora | None:
    """A LoRA of the worker's own folder (DARKROOM_LORA_DIR) by file name, or None where there is no such file."""
    if folder is None or Path(name).name != name:
        return None
    path = folder / name
    return read(path.read_bytes(), scale, field) if path.is_file() else None


def from_hub(file: LoraFile, scale: float, field: str) -> Lora:
    """A LoRA from the hub's cache, downloaded on first use. Raises FetchFailed or InvalidInput."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, HFValidationError, RepositoryNotFoundError

    try:
        path = Path(hf_hub_download(file.repo, file.file, revision=file.revision))
    except (RepositoryNotFoundError, EntryNotFoundError, HFValidationError) as error:
        raise InvalidInput(f"{field}: there is no {file.file!r} in {file.repo!r} on the hub", field=field) from error
    except (HfHubHTTPError, OSError) as error:
        raise FetchFailed(f"{field}: the hub did not deliver {file.repo!r}", field=field) from error
    return read(path.read_bytes(), scale, field)


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
    try:
        for name, lora in zip(names, loras, strict=True):
            _put_on(transformer, lora, name)
        transformer.set_adapters(names, [lora.scale for lora in loras])
        yield
    finally:
        if getattr(transformer, "peft_config", None):
            transformer.unload_lora()


def _put_on(transformer: Any, lora: Lora, name: str) -> None:
    from diffusers.loaders import QwenImageLoraLoaderMixin

    try:
        weights = QwenImageLoraLoaderMixin.lora_state_dict(dict(lora.weights))
        if not weights or not all("lora" in key for key in weights):
            raise ValueError("no LoRA matrices")
        QwenImageLoraLoaderMixin.load_lora_into_transformer(weights, transformer, adapter_name=name)
        if name not in transformer.peft_config:
            raise ValueError("no layer of this name")
    except (ValueError, KeyError, RuntimeError, AttributeError, TypeError) as error:
        raise InvalidInput(f"{lora.field} is not a LoRA for this model", field=lora.field) from error
