"""Files of weights on their way to a device: read in large pieces, checked on the way, never twice in memory."""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from darkroom.errors import ModelNotReady
from darkroom.models.packing.manifest import File, check_size, damaged

CHUNK_BYTES = 16 * 2**20
"""One read. Small enough that its checksum finds the bytes in the processor's cache."""

ALIGNMENT = 16
"""What matrix kernels ask of an address."""

_DTYPES = {
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "I8": torch.int8,
    "U8": torch.uint8,
}


def stream(folder: Path, file: File, device: torch.device) -> dict[str, Tensor]:
    """All tensors of a safetensors file on the device, as views of one block of memory.

    The CRC-32 is compared while the pieces pass. On CUDA the pieces go through pinned memory on a stream of their own,
    so that reading and copying overlap. Raises ModelNotReady naming a missing or damaged file.
    """
    check_size(folder, file)
    with (folder / file.name).open("rb", buffering=0) as opened:
        os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_SEQUENTIAL)
        length = opened.read(8)
        if int.from_bytes(length, "little") > file.bytes - 8:
            raise damaged(folder, file)
        head = opened.read(int.from_bytes(length, "little"))
        checksum = zlib.crc32(length + head)
        block = torch.empty(file.bytes - 8 - len(head), dtype=torch.uint8, device=device)
        pieces = _onto_cuda(opened, block) if device.type == "cuda" else _onto_host(opened, block)
        for piece in pieces:
            checksum = zlib.crc32(piece, checksum)
    if checksum != file.crc32:
        raise damaged(folder, file)
    return _views(head, block)


def _onto_host(opened: Any, block: Tensor) -> Iterator[memoryview]:
    whole = block.numpy().data
    for start in range(0, len(whole), CHUNK_BYTES):
        piece = whole[start : start + CHUNK_BYTES]
        _fill(opened, piece)
        yield piece


def _onto_cuda(opened: Any, block: Tensor) -> Iterator[memoryview]:
    copying = torch.cuda.Stream(block.device)
    # Whoever had this memory before may still be at it, on the stream that it was taken from.
    copying.wait_stream(torch.cuda.current_stream(block.device))
    buffers = [torch.empty(CHUNK_BYTES, dtype=torch.uint8, pin_memory=True) for _ in range(2)]
    copied = [torch.cuda.Event() for _ in buffers]
    for number, start in enumerate(range(0, len(block), CHUNK_BYTES)):
        buffer, event = buffers[number % 2], copied[number % 2]
        event.synchronize()
        size = min(CHUNK_BYTES, len(block) - start)
        piece = buffer.numpy().data[:size]
        _fill(opened, piece)
        with torch.cuda.stream(copying):
            block[start : start + size].copy_(buffer[:size], non_blocking=True)
            event.record(copying)
        yield piece
    copying.synchronize()


def _fill(opened: Any, piece: memoryview) -> None:
    done = 0
    while done < len(piece):
        got = opened.readinto(piece[done:])
        if not got:
            raise ModelNotReady(f"{Path(opened.name).name} became shorter while it was read")
        done += got


def _views(head: bytes, block: Tensor) -> dict[str, Tensor]:
    tensors = {}
    for name, entry in json.loads(head).items():
        if name == "__metadata__":
            continue
        start, end = entry["data_offsets"]
        dtype = _DTYPES[entry["dtype"]]
        piece = block[start:end]
        # A file lays tensors without gaps. What lies crooked after an odd one gets memory of its own.
        piece = piece.clone() if start % ALIGNMENT else piece
        tensors[name] = piece.view(dtype).view(entry["shape"])
    return tensors
