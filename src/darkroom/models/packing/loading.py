"""`load`: the parts of a packed artifact, each ready as soon as its files are there."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from darkroom.models.folding import from_reader
from darkroom.models.packing.manifest import File, Manifest, check_size, damaged, read_manifest
from darkroom.models.packing.streaming import stream
from darkroom.models.parts import header, skeleton
from darkroom.models.placement import EMBEDDINGS, PARTS, HostEmbedding, set_parameter
from darkroom.models.precision import compute_dtype, linears, replace_linear, scheme_of
from darkroom.models.specs import Precision

READERS = 8
"""Files read side by side. One reader gets neither a network volume's rate nor an NVMe disk's."""


@dataclass(frozen=True)
class Loading:
    """An artifact on its way to the device. `parts[name].result()` waits for a part, and raises what went wrong."""

    folder: Path
    manifest: Manifest
    parts: Mapping[str, Future[Any]]

    def wait(self) -> dict[str, Any]:
        """All parts. Raises the first fault, in the order in which an edit needs them."""
        return {part: future.result() for part, future in self.parts.items()}


def load(folder: Path, devices: Mapping[str, torch.device], *, folded: bool = True) -> Loading:
    """Start to read parts of an artifact onto their devices, in the order in which an edit needs them.

    folded: leave the modulation weights, a third of the transformer, in their files, from which tables are made.
    Every file's CRC-32 is compared while it passes. Returns at once but for the modules' skeletons; parts are in
    evaluation mode. Raises ModelNotReady for a damaged manifest or configuration; each part's future raises it for
    damaged files.
    """
    manifest = read_manifest(folder)
    wanted = [part for part in PARTS if part in devices]
    reading = ThreadPoolExecutor(READERS, thread_name_prefix="read")
    assembling = ThreadPoolExecutor(len(PARTS), thread_name_prefix="assemble")
    try:
        files = {
            part: [reading.submit(stream, folder, file, devices[part]) for file in _files(manifest, part, folded)]
            for part in wanted
        }
        # On this thread: a skeleton is made under a patch of torch, and meanwhile the readers read.
        empty = {part: skeleton(folder / part, part) for part in wanted}
        futures = {
            part: assembling.submit(_assembled, folder, manifest, part, empty[part], files[part], folded)
            for part in wanted
        }
    finally:
        reading.shutdown(wait=False)
        assembling.shutdown(wait=False)
    return Loading(folder, manifest, futures)


def _files(manifest: Manifest, part: str, folded: bool) -> tuple[File, ...]:
    more = manifest.sections["modulation"] if part == "transformer" and not folded else ()
    return (*manifest.sections[part], *more)


def _assembled(
    folder: Path,
    manifest: Manifest,
    part: str,
    module: Any,
    files: Sequence[Future[dict[str, Tensor]]],
    folded: bool,
) -> Any:
    tensors = {name: tensor for file in files for name, tensor in file.result().items()}
    device = next(iter(tensors.values())).device
    if part == "text_encoder":
        # The table is mapped and not read: a prompt takes a few hundred of its 152,064 rows.
        module.set_input_embeddings(HostEmbedding(mapped(folder, manifest.sections["embeddings"])(EMBEDDINGS)))
        module.lm_head = nn.Identity()
    if part == "transformer" and folded:
        files_of = manifest.sections["modulation"]
        from_reader(module, mapped(folder, files_of), modulation_fingerprint(manifest.sections))
    _fill(module, part, tensors, manifest.precision)
    for name, buffer in module.named_buffers():
        parent, _, last = name.rpartition(".")
        module.get_submodule(parent)._buffers[last] = buffer.to(device)
    return module.eval()


def _fill(module: nn.Module, part: str, tensors: dict[str, Tensor], precision: Precision) -> None:
    """Put every tensor in its place; none may stay empty."""
    for name, linear in linears(module):
        weight = f"{name}.weight"
        scheme = scheme_of(part, weight, tuple(linear.weight.shape), precision)
        if scheme is not None:
            if linear.bias is not None:
                set_parameter(linear, "bias", tensors.pop(f"{name}.bias"))
            stored = {key[len(weight) :]: tensors.pop(key) for key in [k for k in tensors if k.startswith(weight)]}
            replace_linear(module, name, scheme.attach(linear, stored, compute_dtype(precision)))
    for name, tensor in tensors.items():
        set_parameter(module, name, tensor)
    assert not any(parameter.is_meta for parameter in module.parameters()), f"a weight of the {part} is in no file"


def mapped(folder: Path, files: Sequence[File]) -> Callable[[str], Tensor]:
    """Tensors by name, mapped from their files when they are asked for. Raises ModelNotReady naming a bad file.

    Their values are not checked, as that would read them all; `verify` does.
    """
    from safetensors import safe_open

    where = {}
    for file in files:
        check_size(folder, file)
        try:
            where.update({name: folder / file.name for name, _ in header(folder / file.name)})
        except (ValueError, KeyError, TypeError, AttributeError, OverflowError, MemoryError) as error:
            raise damaged(folder, file) from error

    def read(name: str) -> Tensor:
        with safe_open(where[name], framework="pt") as opened:
            return torch.as_tensor(opened.get_tensor(name))

    return read


def modulation_fingerprint(sections: Mapping[str, Sequence[File]]) -> str:
    """Tells an artifact's tables from any other's: the time embedding and the last norm, in the transformer, count."""
    return "".join(file.sha256 for section in ("modulation", "transformer") for file in sections[section])
