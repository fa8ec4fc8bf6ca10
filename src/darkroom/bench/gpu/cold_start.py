"""Loading from disk: a packed FP8 artifact against `from_pretrained`; each is written, read cold and deleted in turn.

Together both would need 74 GiB at full size. Where disk or time do not suffice, both sides lose the same share of their
layers; widths stay, and the result says how many layers there were.
"""

from __future__ import annotations

import gc
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from darkroom.bench.gpu.clock import Timed, once, release
from darkroom.bench.gpu.family import empty, processor_of, random_part, random_values
from darkroom.bench.gpu.size import Size
from darkroom.models import packing
from darkroom.models.packing.manifest import FORMAT, File, Manifest, Source
from darkroom.models.packing.writing import _settled
from darkroom.models.parts import LOADERS
from darkroom.models.placement import PARTS, Place, place, shapes
from darkroom.models.precision import compute_dtype, scheme_of, stored_bytes
from darkroom.models.specs import Precision

SHARES = (1.0, 0.5, 0.25, 0.1)
SHARD_BYTES = 2**30
PROBE_BYTES = 2**29
WRITERS = 4
MODULATION_UNREAD: tuple[Place, ...] = ("dropped", "modulation")
"""A folded load leaves the modulation weights where they are, so they are not written either."""


def cold_start(size: Size, folder: Path | None, seconds: float, most_bytes: int, runs: int = 1) -> dict[str, Any]:
    """Both loads in `folder` (a temporary one by default), within about `seconds` and `most_bytes` of disk."""
    device = torch.device(size.device)
    devices = dict.fromkeys(PARTS, device)
    with tempfile.TemporaryDirectory(prefix="darkroom-cold-", dir=folder) as name:
        here = Path(name)
        rate = _disk_rate(here, PROBE_BYTES if size.device == "cuda" else 2**20)
        share = _share(size, rate, seconds, min(most_bytes, int(shutil.disk_usage(here).free * 0.95)))
        if share is None:
            raise TimeoutError(f"the disk writes {rate / 1e9:.2f} GB/s: no depth fits {seconds:.0f} s and its room")
        part_of = size.shallower(share)
        plain = _one(
            here / "plain", lambda out: _write_plain(part_of, out), lambda out: _load_plain(out, devices), runs
        )
        packed = _one(
            here / "packed",
            lambda out: _write_packed(part_of, out, "fp8"),
            lambda out: packing.load(out, devices, folded=True).wait(),
            runs,
        )
    return {
        "layers": part_of.transformer["num_layers"],
        "text_layers": part_of.text_encoder["text_config"]["num_hidden_layers"],
        "share_of_depth": share,
        "disk_write_gb_per_second": rate / 1e9,
        "from_pretrained": plain,
        "packed_fp8": packed,
        "ratio": plain["seconds"] / packed["seconds"],
    }


def bytes_of(size: Size, precision: Precision, left_out: tuple[Place, ...] = ()) -> int:
    """What all parts take on the disk."""
    tokenizer = processor_of(size).tokenizer
    return sum(
        stored_bytes(part, name, shape, precision)
        for part in PARTS
        for name, shape in shapes(empty(size, part, tokenizer))
        if place(part, name) not in left_out
    )


def _forget(folder: Path) -> None:
    """Ask the kernel to drop a folder's files from its page cache, so that the next read comes from the disk."""
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                os.fsync(file.fileno())
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def _one(
    folder: Path, write: Callable[[Path], Mapping[str, Tensor]], load: Callable[[Path], dict[str, Any]], runs: int
) -> dict[str, Any]:
    """Write, then `runs` times forget and load, compare, delete."""
    started = time.perf_counter()
    expected = write(folder)
    write_seconds = time.perf_counter() - started
    files = list(folder.rglob("*.safetensors"))
    device, seconds, equal = next(iter(expected.values())).device, list[float](), True
    for _ in range(runs):
        _forget(folder)
        taken, parts = once(lambda: load(folder), device)
        seconds.append(taken)
        equal &= all(torch.equal(parts["transformer"].get_parameter(name), value) for name, value in expected.items())
        del parts
        release(device)
    size = sum(path.stat().st_size for path in files)
    shutil.rmtree(folder)
    timed = Timed(tuple(seconds))
    return {
        "seconds": timed.median,
        "spread_seconds": max(seconds) - min(seconds),
        "bytes": size,
        "gb_per_second": size / timed.median / 1e9,
        "write_seconds": write_seconds,
        "equal": equal,
    }


def _write_plain(size: Size, folder: Path) -> dict[str, Tensor]:
    """diffusers' layout in bf16, part by part."""
    processor = processor_of(size)
    for part in PARTS:
        module = random_part(size, part, processor.tokenizer, "bf16", lean=False)
        module.save_pretrained(folder / part, safe_serialization=True, max_shard_size="5GB")
        del module
        gc.collect()
    return _witnesses(size)


def _load_plain(folder: Path, devices: Mapping[str, torch.device]) -> dict[str, Any]:
    """As an unpacked checkpoint is loaded: each class's own `from_pretrained`, one after the other."""
    return {part: LOADERS[part](folder / part, "bf16").to(device) for part, device in devices.items()}


def _write_packed(size: Size, folder: Path, precision: Precision) -> dict[str, Tensor]:
    """What `darkroom pack` would write of the same weights, but for the modulation and without a source on the disk."""
    processor, sections = processor_of(size), dict[str, list[File]]()
    with ThreadPoolExecutor(WRITERS) as writers:
        for part in PARTS:
            module = empty(size, part, processor.tokenizer)
            (folder / part).mkdir(parents=True)
            _save_config(module, folder / part)
            waiting: dict[str, list[Future[File]]] = {}
            for section, tensors in _shards(size, part, module, precision):
                mine = waiting.setdefault(section, [])
                name = f"{section}/{len(mine) + 1:05d}.safetensors"
                (folder / section).mkdir(exist_ok=True)
                mine.append(writers.submit(_save, tensors, folder, name))
                # No more in memory than the writers can have in hand.
                if len(mine) >= WRITERS:
                    mine[-WRITERS].result()
            for section, files in waiting.items():
                sections[section] = [file.result() for file in files]
    manifest = Manifest(
        format=FORMAT,
        profile=f"random {size.name}",
        precision=precision,
        source=Source(id="random", revision=None, fingerprint=""),
        versions={},
        sections={"modulation": (), **{name: tuple(files) for name, files in sections.items()}},
        other=(),
    )
    (folder / packing.MANIFEST).write_text(manifest.model_dump_json(indent=1))
    return _witnesses(size)


def _shards(size: Size, part: str, module: Any, precision: Precision) -> Iterator[tuple[str, dict[str, Tensor]]]:
    """(section, about SHARD_BYTES of tensors), quantised on the device and brought to the CPU."""
    device, dtype, waiting = torch.device(size.device), compute_dtype(precision), dict[str, dict[str, Tensor]]()
    for name, shape in shapes(module):
        where = place(part, name)
        if where in MODULATION_UNREAD:
            continue
        section = "embeddings" if where == "host" else part
        values = random_values(name, shape, dtype, device)
        scheme = scheme_of(part, name, shape, precision)
        stored = {"": values} if scheme is None else scheme.quantised(values)
        mine = waiting.setdefault(section, {})
        mine.update({f"{name}{ending}": tensor.cpu().contiguous() for ending, tensor in stored.items()})
        if sum(tensor.nbytes for tensor in mine.values()) >= SHARD_BYTES:
            yield section, waiting.pop(section)
    yield from waiting.items()


def _save(tensors: dict[str, Tensor], folder: Path, name: str) -> File:
    from safetensors.torch import save_file

    save_file(tensors, folder / name, {"format": "pt"})
    return _settled(folder, name)


def _save_config(module: Any, folder: Path) -> None:
    if hasattr(module, "save_config"):  # diffusers
        module.save_config(folder)
    else:
        module.config.architectures = [type(module).__name__]
        module.config.save_pretrained(folder)


def _witnesses(size: Size) -> dict[str, Tensor]:
    """Weights of the transformer that no precision changes, by which a load is known to be right."""
    shape = dict(shapes(empty(size, "transformer", processor_of(size).tokenizer)))
    names = ("img_in.weight", "proj_out.weight", "transformer_blocks.0.attn.norm_q.weight")
    device = torch.device(size.device)
    return {name: random_values(name, shape[name], torch.bfloat16, device) for name in names}


def _share(size: Size, rate: float, seconds: float, most_bytes: int) -> float | None:
    """The largest share of the layers whose files can be written and read twice over in time."""
    for share in SHARES:
        shallow = size.shallower(share)
        plain, packed = bytes_of(shallow, "bf16"), bytes_of(shallow, "fp8", MODULATION_UNREAD)
        # Reading is at best as fast as writing here; making the weights and copying them takes some more.
        expected = 2.5 * (plain + packed) / rate
        if expected <= seconds and max(plain, packed) <= most_bytes:
            return share
    return None


def _disk_rate(folder: Path, size: int) -> float:
    """Bytes per second of writing one file that has really reached the disk."""
    path, block = folder / "probe", os.urandom(2**20)
    started = time.perf_counter()
    with path.open("wb") as file:
        for _ in range(size // len(block)):
            file.write(block)
        file.flush()
        os.fsync(file.fileno())
    seconds = time.perf_counter() - started
    path.unlink()
    return size / seconds


