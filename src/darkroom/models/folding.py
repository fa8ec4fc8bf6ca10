"""Modulation folded into a table: a third of the transformer's weights depends on nothing but the timestep.

The layers `img_mod` and `txt_mod` of every block turn a timestep into shifts, scales and gates. For the timesteps of a
job that is a table of a few megabytes, computed once by the layers themselves, in the shapes in which diffusers would
call them for one image, so that a row equals what the forward would have computed. Timesteps are told apart as they
are rounded to the model's dtype. With `zero_cond_t` reference tokens take one more row, at t = 0.

Where the weights lie is a matter of `ModulationWeights`: in the module, on the CPU, or in a file read block by block.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

log = logging.getLogger(__name__)

LAYERS = ("img_mod", "txt_mod")
IN_TABLES = (*LAYERS, "norm_out", "time_text_embed")
"""Every layer whose output a table holds or is made from; the last two stay in the transformer."""
TABLE_VERSION = "1"
KEPT_BYTES = 256 * 2**20
"""Tables kept on the device beside the one in use."""
FOLDER_BYTES = 8 * 2**30
"""Tables kept in a folder; beyond that those go that were read longest ago."""


@dataclass(frozen=True)
class Modulation:
    """What the layers say at one timestep: image, text and clean (or None) [blocks, 6 D], out [2 D].

    image is for the tokens that are denoised; clean for references, where `zero_cond_t` modulates them at t = 0.
    """

    image: Tensor
    text: Tensor
    out: Tensor
    clean: Tensor | None

    def block(self, index: int) -> tuple[Tensor, Tensor | None, Tensor]:
        """Rows of image, clean and text for one block, each [6, D].

        Shift, 1 + scale, gate before attention, then the same before the MLP.
        """
        image, clean, text = self._rows
        return image[index], None if clean is None else clean[index], text[index]

    @cached_property
    def last_norm(self) -> tuple[Tensor, Tensor]:
        """1 + scale and shift of the norm before the projection to velocities, each [D]."""
        scale, shift = self.out.chunk(2)
        return 1 + scale, shift

    @cached_property
    def _rows(self) -> tuple[Tensor, Tensor | None, Tensor]:
        return _rows(self.image), None if self.clean is None else _rows(self.clean), _rows(self.text)


@dataclass(frozen=True)
class Table:
    """The layers' own outputs for some timesteps T: image, text [T, blocks, 6 D], out [T, 2 D]; clean [blocks, 6 D]."""

    timesteps: tuple[float, ...]
    image: Tensor
    text: Tensor
    out: Tensor
    clean: Tensor | None

    def at(self, timestep: float) -> Modulation:
        """The row of a timestep in `timesteps`."""
        row = self.timesteps.index(timestep)
        return Modulation(self.image[row], self.text[row], self.out[row], self.clean)

    def to(self, device: torch.device) -> Table:
        """The same table elsewhere."""
        clean = None if self.clean is None else self.clean.to(device)
        return Table(self.timesteps, self.image.to(device), self.text.to(device), self.out.to(device), clean)

    @property
    def bytes(self) -> int:
        """Memory of all rows."""
        return sum(t.nbytes for t in (self.image, self.text, self.out, self.clean) if t is not None)

    def save(self, path: Path) -> None:
        """Write a safetensors file whole or not at all. Raises OSError, also where the disk is full."""
        from safetensors.torch import save

        tensors = {"image": self.image, "text": self.text, "out": self.out, "clean": self.clean}
        metadata = {"version": TABLE_VERSION, "timesteps": json.dumps(self.timesteps)}
        path.parent.mkdir(parents=True, exist_ok=True)
        beside = path.with_name(f"{path.name}.{os.getpid()}.part")
        content = save({k: v.cpu().contiguous() for k, v in tensors.items() if v is not None}, metadata)
        try:
            beside.write_bytes(content)
            beside.replace(path)
        finally:
            beside.unlink(missing_ok=True)

    @staticmethod
    def load(path: Path) -> Table:
        """Read what `save` wrote. Raises ValueError, also for a damaged file."""
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(path, "pt") as file:
                metadata = file.metadata() or {}
                found = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
            if metadata.get("version") != TABLE_VERSION:
                raise ValueError(f"{path.name} is of version {metadata.get('version')}")
            timesteps = tuple(json.loads(metadata["timesteps"]))
            return Table(timesteps, found["image"], found["text"], found["out"], found.get("clean"))
        except (SafetensorError, KeyError, TypeError, OSError) as error:
            raise ValueError(f"{path.name} is damaged ({type(error).__name__})") from error


def _rows(flat: Tensor) -> Tensor:
    """[blocks, 6 D] -> [blocks, 6, D] with 1 added to the scales, as every use of them does."""
    rows: Tensor = flat.unflatten(-1, (6, -1)).clone()
    rows[:, 1::3] += 1
    return rows


class ModulationWeights(Protocol):
    """The modulation layers of every block, wherever their weights lie."""

    @property
    def fingerprint(self) -> str | None:
        """Tells these weights from any others; None where tables must not be kept on disk."""

    def block(self, index: int) -> tuple[nn.Module, nn.Module]:
        """`img_mod` and `txt_mod` of one block, ready to run where the transformer runs."""


class InModule:
    """The transformer's own layers, as diffusers loads them; with whatever LoRA they wear."""

    def __init__(self, transformer: Any, fingerprint: str | None = None) -> None:
        self.transformer, self.fingerprint = transformer, fingerprint

    def block(self, index: int) -> tuple[nn.Module, nn.Module]:
        """The block's layers themselves."""
        block = self.transformer.transformer_blocks[index]
        return block.img_mod, block.txt_mod


class Detached:
    """Layers that a transformer no longer holds, rebuilt one block at a time from where their weights are.

    read: name of a parameter, as in the transformer's state dict -> the tensor.
    """

    def __init__(self, transformer: Any, read: Callable[[str], Tensor], fingerprint: str | None) -> None:
        self.transformer, self._read, self.fingerprint = transformer, read, fingerprint

    def block(self, index: int) -> tuple[nn.Module, nn.Module]:
        """Both layers on the transformer's device, in the dtype of its time embedding, with their LoRAs."""
        block = self.transformer.transformer_blocks[index]
        return self._layer(index, "img_mod", block.img_mod), self._layer(index, "txt_mod", block.txt_mod)

    def _layer(self, index: int, name: str, absent: nn.Module) -> nn.Module:
        like = self.transformer.time_text_embed.timestep_embedder.linear_2.weight
        prefix = f"transformer_blocks.{index}.{name}.1"
        # Copied: a tensor in a mapped file starts anywhere, and matrix products of unaligned ones round differently.
        weight, bias = (self._read(f"{prefix}.{part}").to(like, copy=True) for part in ("weight", "bias"))
        linear = nn.Linear(weight.shape[1], weight.shape[0], device="meta")
        linear.weight, linear.bias = nn.Parameter(weight, False), nn.Parameter(bias, False)
        adapters = absent.adapters if isinstance(absent, Absent) else []
        return nn.Sequential(nn.SiLU(), _Adapted(linear, adapters) if adapters else linear)


@dataclass(frozen=True)
class Adapter:
    """A LoRA of one layer: y + scale · up(down(x)); down [r, in], up [out, r]."""

    down: Tensor
    up: Tensor
    scale: float


class _Adapted(nn.Module):
    def __init__(self, linear: nn.Linear, adapters: Sequence[Adapter]) -> None:
        super().__init__()
        self.linear, self.adapters = linear, adapters

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.linear(x)
        for adapter in self.adapters:
            y = y + x @ adapter.down.to(x).mT @ adapter.up.to(x).mT * adapter.scale
        return y


class Absent(nn.Module):
    """Stands where a modulation layer was taken out, and keeps what LoRAs say of it."""

    def __init__(self) -> None:
        super().__init__()
        self.adapters: list[Adapter] = []

    def forward(self, _: Tensor) -> Tensor:
        raise RuntimeError("this transformer's modulation is folded: run it through the editor, which holds the table")


def source_of(transformer: Any) -> ModulationWeights:
    """Where this transformer's modulation weights are: as it was detached, else in the module."""
    source: ModulationWeights | None = getattr(transformer, "modulation_source", None)
    return source or InModule(transformer)


def detach(transformer: Any, fingerprint: str | None = None) -> Detached:
    """Take the modulation layers out of the transformer and keep their weights on the CPU.

    fingerprint: of the weights, so that tables can be kept on disk.
    """
    kept = {}
    for index, block in enumerate(transformer.transformer_blocks):
        for name in LAYERS:
            for part, tensor in getattr(block, name)[1].named_parameters():
                kept[f"transformer_blocks.{index}.{name}.1.{part}"] = tensor.detach().cpu()
    return _replaced(transformer, Detached(transformer, kept.__getitem__, fingerprint))


def from_reader(transformer: Any, read: Callable[[str], Tensor], fingerprint: str | None) -> Detached:
    """Leave the modulation weights wherever they lie: `read` gives a parameter by its name in the state dict.

    They are read block by block when a table is computed; the module's own, if it has any, are dropped.
    """
    return _replaced(transformer, Detached(transformer, read, fingerprint))


def _replaced(transformer: Any, source: Detached) -> Detached:
    for block in transformer.transformer_blocks:
        block.img_mod, block.txt_mod = Absent(), Absent()
    transformer.modulation_source = source
    return source


def parameter_names(blocks: int) -> Iterator[str]:
    """Names of all modulation parameters of a transformer of so many blocks, as in its state dict."""
    for index in range(blocks):
        for name in LAYERS:
            yield f"transformer_blocks.{index}.{name}.1.weight"
            yield f"transformer_blocks.{index}.{name}.1.bias"


@torch.no_grad()
def compute(transformer: Any, weights: ModulationWeights, timesteps: Sequence[float], dtype: torch.dtype) -> Table:
    """The table for timesteps in 0…1 that are already rounded to `dtype`; each layer is asked for once per timestep."""
    if transformer.config.guidance_embeds or transformer.config.use_additional_t_cond:
        raise ValueError("modulation by guidance or extra conditions is no function of the timestep alone")
    device = transformer.device
    embedded = [_embed(transformer, timestep, dtype, device) for timestep in timesteps]
    images, texts, cleans = [], [], []
    for index in range(len(transformer.transformer_blocks)):
        image, text = weights.block(index)
        rows = [image(e) for e in embedded]
        images.append(torch.stack([row[0] for row in rows]))
        cleans.append(rows[0][-1])
        texts.append(torch.cat([text(e[:1]) for e in embedded]))
    norm = transformer.norm_out
    out = torch.cat([norm.linear(norm.silu(e[:1]).to(dtype)) for e in embedded])
    clean = torch.stack(cleans) if transformer.zero_cond_t else None
    return Table(tuple(timesteps), torch.stack(images, 1), torch.stack(texts, 1), out, clean)


def _embed(transformer: Any, timestep: float, dtype: torch.dtype, device: torch.device) -> Tensor:
    """[1, D], or [2, D] with the row for t = 0: one image's conditioning as diffusers computes it."""
    time = torch.tensor([timestep], device=device).to(dtype)
    if transformer.zero_cond_t:
        time = torch.cat([time, time * 0])
    like = torch.empty(0, dtype=dtype, device=device)
    embedded: Tensor = transformer.time_text_embed(time, like)
    return embedded


class Folding:
    """Tables of one transformer by timestep, LoRA and schedule: in memory, on disk where a folder is given.

    made_ahead: another folder of tables, looked at after `folder`, in which none is kept.
    A timestep that no table holds is computed together with the whole schedule that was announced last.
    """

    def __init__(
        self,
        transformer: Any,
        weights: ModulationWeights,
        folder: Path | None = None,
        made_ahead: Path | None = None,
    ) -> None:
        self.transformer, self.weights, self.folder, self.made_ahead = transformer, weights, folder, made_ahead
        self.computed = 0
        self._tables: OrderedDict[tuple[Any, ...], Table] = OrderedDict()
        self._announced: tuple[float, ...] = ()
        self._last: tuple[Any, Modulation] | None = None

    def announce(self, timesteps: Sequence[float]) -> None:
        """Say which timesteps follow, rounded to the model's dtype, so that their rows are computed together."""
        self._announced = tuple(dict.fromkeys(timesteps))

    def at(self, timestep: float, dtype: torch.dtype) -> Modulation:
        """The row of a timestep that is rounded to `dtype`."""
        worn = worn_on_modulation(self.transformer)
        wanted = (timestep, dtype, worn)
        if self._last is None or self._last[0] != wanted:
            self._last = (wanted, self._table(timestep, dtype, worn).at(timestep))
        return self._last[1]

    def add(self, table: Table, worn: tuple[str, ...] = ()) -> None:
        """Put in a table that was computed before, for these weights wearing these LoRAs."""
        self._keep(table.to(self.transformer.device), table.image.dtype, worn)

    def _table(self, timestep: float, dtype: torch.dtype, worn: tuple[str, ...]) -> Table:
        for key, table in self._tables.items():
            if key[1:] == (dtype, worn) and timestep in key[0]:
                self._tables.move_to_end(key)
                return table
        timesteps = self._announced if timestep in self._announced else (timestep,)
        return self._keep(self._from_disk(timesteps, dtype, worn), dtype, worn)

    def _keep(self, table: Table, dtype: torch.dtype, worn: tuple[str, ...]) -> Table:
        self._tables[(table.timesteps, dtype, worn)] = table
        while len(self._tables) > 1 and sum(t.bytes for t in self._tables.values()) > KEPT_BYTES:
            self._tables.popitem(last=False)
        return table

    def _from_disk(self, timesteps: tuple[float, ...], dtype: torch.dtype, worn: tuple[str, ...]) -> Table:
        name = self._name(timesteps, dtype, worn)
        for folder in dict.fromkeys((self.folder, self.made_ahead)):
            table = None if name is None or folder is None else self._read(folder / name, timesteps)
            if table is not None:
                return table.to(self.transformer.device)
        self.computed += 1
        table = compute(self.transformer, self.weights, timesteps, dtype)
        if name is not None and self.folder is not None:
            try:
                table.save(self.folder / name)
                _make_room(self.folder)
            except OSError as error:
                log.warning("modulation table is not kept: %s", error)
        return table

    def _read(self, path: Path, timesteps: tuple[float, ...]) -> Table | None:
        """A table that was kept; None where there is none, or none that fits."""
        if not path.is_file():
            return None
        try:
            table = self._checked(Table.load(path), timesteps)
        except ValueError as error:
            log.warning("modulation table is not taken: %s", error)
            return None
        with suppress(OSError):  # a folder that is only read keeps its order
            os.utime(path)
        return table

    def _checked(self, table: Table, timesteps: tuple[float, ...]) -> Table:
        blocks, width = len(self.transformer.transformer_blocks), 6 * self.transformer.inner_dim
        shape = (len(timesteps), blocks, width)
        if table.timesteps != timesteps or table.image.shape != shape or table.text.shape != shape:
            raise ValueError("it belongs to another model or schedule")
        return table

    def _name(self, timesteps: tuple[float, ...], dtype: torch.dtype, worn: tuple[str, ...]) -> str | None:
        """A table's file, the same in every folder; None for weights that cannot be told apart."""
        if self.weights.fingerprint is None:
            return None
        clean = bool(self.transformer.zero_cond_t)
        named = repr((TABLE_VERSION, self.weights.fingerprint, clean, timesteps, str(dtype), worn))
        return f"{hashlib.sha256(named.encode()).hexdigest()}.safetensors"


def _make_room(folder: Path) -> None:
    """Other workers may write and delete here at the same time."""
    found = []
    for path in folder.iterdir():
        with suppress(FileNotFoundError):
            stat = path.stat()
            found.append((stat.st_mtime_ns, stat.st_size, path))
    total = 0
    for _, size, path in sorted(found, reverse=True):
        total += size
        if total > FOLDER_BYTES:
            path.unlink(missing_ok=True)


# -- diffusers' own forward with folded modulation ----------------------------------------------


class _Row(nn.Module):
    """Answers for a modulation layer with a row that is known: [B, 6 D], under `zero_cond_t` [2 B, 6 D]."""

    def __init__(self, row: Tensor, clean: Tensor | None = None) -> None:
        super().__init__()
        self.row, self.clean = row, clean

    def forward(self, embedded: Tensor) -> Tensor:
        if self.clean is None:
            return self.row.expand(len(embedded), -1)
        half = len(embedded) // 2
        return torch.cat([self.row.expand(half, -1), self.clean.expand(half, -1)])


@contextmanager
def in_place(transformer: Any, modulation: Modulation) -> Iterator[None]:
    """Inside the block the transformer's own forward takes its modulation from this row; for one timestep only."""
    blocks = list(transformer.transformer_blocks)
    own = [(block.img_mod, block.txt_mod) for block in blocks]
    try:
        for index, block in enumerate(blocks):
            clean = None if modulation.clean is None else modulation.clean[index]
            block.img_mod, block.txt_mod = _Row(modulation.image[index], clean), _Row(modulation.text[index])
        yield
    finally:
        for block, (img_mod, txt_mod) in zip(blocks, own, strict=True):
            block.img_mod, block.txt_mod = img_mod, txt_mod


# -- LoRAs --------------------------------------------------------------------------------------


def worn_on_modulation(transformer: Any) -> tuple[str, ...]:
    """Digests of the LoRAs that change the tables just now, in their order."""
    return getattr(transformer, "modulation_loras", ())


def wear(transformer: Any, weights: Mapping[str, Tensor], scale: float, digest: str) -> dict[str, Tensor]:
    """Note a LoRA that touches modulation; returns the matrices that are left for the transformer's own layers.

    weights: as diffusers names them ("transformer.transformer_blocks.0.img_mod.1.lora_A.weight"). Where the layers are
    absent their matrices are kept for the next table. Raises ValueError for one that fits no layer.
    """
    if any(touches_modulation(name) for name in weights):
        transformer.modulation_loras = (*worn_on_modulation(transformer), digest)
    absent = {name: layer for name, layer in transformer.named_modules() if isinstance(layer, Absent)}
    left = dict(weights)
    if not absent:
        return left
    names = [name for name in weights if any(layer in name for layer in LAYERS)]
    for name in names:
        if name not in left:
            continue
        down, up = name.replace(".lora_B.", ".lora_A."), name.replace(".lora_A.", ".lora_B.")
        layer = down.removeprefix("transformer.").removesuffix(".1.lora_A.weight")
        if layer not in absent or not {down, up} <= left.keys() or left[up].shape[1] != left[down].shape[0]:
            raise ValueError(f"no layer for {name}")
        absent[layer].adapters.append(Adapter(left.pop(down), left.pop(up), scale))
    return left


def undress(transformer: Any) -> None:
    """Forget what `wear` noted."""
    transformer.modulation_loras = ()
    for layer in transformer.modules():
        if isinstance(layer, Absent):
            layer.adapters.clear()


def touches_modulation(name: str) -> bool:
    """Whether a LoRA's tensor of this name, in any of the usual spellings, changes what a table holds."""
    return any(layer in name for layer in IN_TABLES)
