"""How long a cold load takes, packed against unpacked: the same weights, side by side, not from memory of the disk."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path

import torch
from torch import nn

from darkroom.models.packing.loading import READERS, load
from darkroom.models.parts import LOADERS
from darkroom.models.placement import PARTS
from darkroom.models.specs import Precision


def forget(folder: Path) -> None:
    """Ask the kernel to drop a folder's files from its page cache, so that the next read comes from the disk."""
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                os.fsync(file.fileno())
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def seconds_packed(
    folder: Path, device: torch.device, *, folded: bool = True, checked: bool = True, readers: int = READERS
) -> float:
    """Until every part of an artifact is on the device."""
    devices = dict.fromkeys(PARTS, device)
    loading = partial(load, folder, devices, folded=folded, checked=checked, readers=readers)
    return _seconds(device, lambda: loading().wait().values())


def seconds_unpacked(folder: Path, device: torch.device, precision: Precision) -> float:
    """Until every part of a checkpoint is on the device: `from_pretrained`, quantised where the precision says so."""
    return _seconds(device, lambda: [LOADERS[part](folder / part, precision).to(device) for part in PARTS])


def _touch(modules: Iterable[nn.Module]) -> None:
    """Read a byte of every page: on the CPU `from_pretrained` maps files, and has read nothing when it returns."""
    for module in modules:
        for parameter in module.parameters():
            if not parameter.is_meta and not hasattr(parameter, "qdata"):
                parameter.detach().flatten().view(torch.uint8)[::4096].sum()


def _seconds(device: torch.device, work: Callable[[], Iterable[nn.Module]]) -> float:
    started = time.perf_counter()
    held = work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    else:
        _touch(held)
    taken = time.perf_counter() - started
    del held
    return taken
