"""Files of a checkpoint: found or downloaded, checked, and told apart by content."""

from __future__ import annotations

import hashlib
import json
from functools import lru_cache
from pathlib import Path
from typing import Any

from darkroom.errors import ModelNotReady
from darkroom.models.specs import ModelSpec

CHECKSUMS = "checksums.json"
# Raised whenever the miniature's classes or tokenizer change, so that older files are not taken for new ones.
CHECKSUMS_VERSION = 1
_REBUILD = (
    "restore it from the repository with `git checkout` or by installing Darkroom anew, or train another and put it in"
    " its place with `darkroom pocket train --install`"
)
PACKED_APART = ("modulation", "embeddings")
"""Folders of a packed artifact that are no part of a model: some repositories on the hub hold artifacts."""
PARTIAL = ".partial"
"""What the name of a packed artifact ends in while it is written."""


def locate(spec: ModelSpec, parts: tuple[str, ...]) -> Path:
    """The folder that holds `parts` of a checkpoint, downloaded through the hub's cache if it is no local folder.

    No parts: a checkpoint of transformers, whose files lie side by side.
    Raises ModelNotReady where a part is missing or the hub does not answer.
    """
    folder = Path(spec.repo)
    half = folder if folder.name.endswith(PARTIAL) else folder.with_name(folder.name + PARTIAL)
    if half.is_dir() and (half == folder or not folder.is_dir()):
        raise ModelNotReady(f"{half.name} is an artifact that was never finished; run `darkroom pack` again")
    if not folder.is_dir():
        if folder.is_absolute() or spec.repo.startswith("."):
            raise ModelNotReady(f"the weights {folder.name!r} are not on this worker; {_remedy(spec)}")
        folder = _download(spec, parts)
    for part in parts:
        if not (folder / part).is_dir():
            raise ModelNotReady(f"the weights {folder.name!r} have no part {part!r}; {_remedy(spec)}")
    return folder


def verify(folder: Path) -> None:
    """Check every file that `checksums.json` lists; checkpoints without that file are taken as they are.

    Raises ModelNotReady that names the first file that is missing, damaged or of another version, and the way out.
    """
    listing = folder / CHECKSUMS
    if not listing.is_file():
        return
    try:
        content = json.loads(listing.read_text())
        version, files = content["version"], dict(content["files"])
    except (ValueError, KeyError, TypeError) as error:
        raise ModelNotReady(f"{folder.name}/{CHECKSUMS} is damaged; {_REBUILD}") from error
    if version != CHECKSUMS_VERSION:
        raise ModelNotReady(f"{folder.name}/{CHECKSUMS} is of version {version}, not {CHECKSUMS_VERSION}; {_REBUILD}")
    for name, expected in files.items():
        path = folder / name
        if not path.is_file():
            raise ModelNotReady(f"{folder.name}/{name} is missing; {_REBUILD}")
        if sha256(path) != expected:
            raise ModelNotReady(f"{folder.name}/{name} is damaged; {_REBUILD}")


def check_lengths(folder: Path) -> None:
    """Check that every safetensors file under `folder` is as long as its header says: for weights without checksums.

    Raises ModelNotReady that names the first that is not.
    """
    for path in sorted(folder.rglob("*.safetensors")):
        try:
            entries, begin = tensor_entries(path)
            wanted = begin + max((entry["data_offsets"][1] for entry in entries.values()), default=0)
        except (ValueError, KeyError, TypeError, MemoryError, OverflowError):
            wanted = None
        if path.stat().st_size != wanted:
            raise ModelNotReady(f"{path} is damaged or was cut short; make it anew, or take another folder")


def fingerprint(folder: Path) -> tuple[tuple[str, str], ...]:
    """Name and content of every file of a part; equal fingerprints mean equal parts, wherever they lie.

    Files of the hub's cache are named by their SHA-256, so that nothing is read for them.
    """
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return tuple((str(path.relative_to(folder)), _content(path)) for path in files)


def weights_digest(folder: Path) -> str:
    """SHA-256 of a part's weights: of its safetensors file, or of the digests of several in the order of their names.

    Raises ModelNotReady where there is none.
    """
    digests = [_content(path) for path in sorted(folder.glob("*.safetensors"))]
    if not digests:
        raise ModelNotReady(f"{folder.parent.name}/{folder.name} holds no .safetensors file; {_REBUILD}")
    return digests[0] if len(digests) == 1 else hashlib.sha256("".join(digests).encode()).hexdigest()


def module_digest(folder: Path, module: str) -> str:
    """SHA-256 of those tensors in a part's safetensors files that belong to its module of this name.

    Over names from the module on, types, shapes and bytes: the same however the tensors are spread over files, and
    wherever the module hangs. Read once as long as the files' sizes and times stay the same.
    """
    stats = [(path, path.stat()) for path in sorted(folder.glob("*.safetensors"))]
    return _module_hashed(module, tuple((path, stat.st_size, stat.st_mtime_ns) for path, stat in stats))


def tensor_entries(path: Path) -> tuple[dict[str, dict[str, Any]], int]:
    """What a safetensors header says of every tensor (dtype, shape, data_offsets), and where their bytes begin."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        entries: dict[str, dict[str, Any]] = json.loads(file.read(length))
    entries.pop("__metadata__", None)
    return entries, 8 + length


@lru_cache(maxsize=16)
def _module_hashed(module: str, files: tuple[tuple[Path, int, int], ...]) -> str:
    found: dict[str, str] = {}
    for path, *_ in files:
        entries, begin = tensor_entries(path)
        with path.open("rb") as file:
            for name, entry in entries.items():
                _, dot, rest = f".{name}".partition(f".{module}.")
                if dot:
                    first, end = entry["data_offsets"]
                    file.seek(begin + first)
                    own = hashlib.sha256(file.read(end - first)).hexdigest()
                    found[rest] = f"{entry['dtype']} {entry['shape']} {own}"
    return hashlib.sha256(repr(sorted(found.items())).encode()).hexdigest()


def size_bytes(folder: Path) -> int:
    """Bytes of the weights of a part on disk."""
    return sum(path.stat().st_size for path in folder.rglob("*.safetensors"))


def _content(path: Path) -> str:
    target = path.resolve()
    is_blob = target.parent.name == "blobs" and len(target.name) == 64
    return target.name if is_blob else sha256(target)


def sha256(path: Path) -> str:
    """The hex digest of a file, kept as long as its size and time stay the same."""
    stat = path.stat()
    return _hashed(path, stat.st_size, stat.st_mtime_ns)


@lru_cache(maxsize=1024)
def _hashed(path: Path, _size: int, _modified: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _download(spec: ModelSpec, parts: tuple[str, ...]) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        apart = [f"{part}/*" for part in (*parts, *PACKED_APART)] if parts else ["*.safetensors", "*.txt", "*.jinja"]
        patterns = ["*.json", *apart]
        return Path(snapshot_download(spec.repo, revision=spec.revision, allow_patterns=patterns))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError, ValueError) as error:
        raise ModelNotReady(f"the weights {spec.repo!r} could not be downloaded; {_remedy(spec)}") from error


def _remedy(spec: ModelSpec) -> str:
    if Path(spec.repo).is_absolute():
        return "check the folder, or build the pocket model with `darkroom pocket train --install`"
    return "check the model's name and revision, HF_TOKEN and the network"
