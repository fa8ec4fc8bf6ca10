"""`pack`: from a checkpoint in diffusers' layout to a packed artifact, tensor by tensor."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import shutil
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path

from torch import Tensor

from darkroom import __version__
from darkroom.errors import InvalidInput, ModelNotReady
from darkroom.models.packing.journal import Finished, Journal, Tell, keep_finished
from darkroom.models.packing.manifest import FORMAT, MANIFEST, File, Manifest, Progress, Source
from darkroom.models.packing.source import Entry, entries, small_parts, source_fingerprint, tensors
from darkroom.models.packing.streaming import CHUNK_BYTES
from darkroom.models.packing.tables import TABLES, schedules, table_bytes, write_tables
from darkroom.models.parts import load_schedule
from darkroom.models.placement import PARTS, place
from darkroom.models.precision import compute_dtype, require, scheme_of, stored_bytes
from darkroom.models.specs import ModelSpec, Precision
from darkroom.models.vocabulary import VOCABULARY
from darkroom.models.weights import PARTIAL, locate
from darkroom.models.weights import verify as verify_source

SHARD_BYTES = 2**30
"""About what one file holds: files are read side by side, and each is held in memory while it is written."""

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""How a disk says that it takes no more: it is full, or this user's part of it is, or one file is too long."""

SECTION = {"host": "embeddings", "modulation": "modulation"}
"""Sections that are not named for their part."""


def pack(
    spec: ModelSpec,
    out: Path,
    profile: str,
    precision: Precision,
    progress: Progress | None = None,
    tell: Tell | None = None,
) -> Manifest:
    """Pack a checkpoint (a local folder or a hub id) into `out`, which must not exist or be empty.

    spec: of the role that the artifact is for: it decides what reads prompts, and for which schedules tables are made.

    Everything is written to `out` + ".partial" and renamed at the end. What an interrupted run of the same source,
    profile and precision has finished there is taken, once its checksum is right; `tell` hears of that, or why not.
    A disk that fills up ends a pack in the same way: what is finished stays, what is half written goes.
    Takes the memory of one file (1 GiB) and of the largest matrix in float32.

    Raises InvalidInput for an `out` that is in use, ModelNotReady for a source that is not a whole model of the
    family or a disk that is too small.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InvalidInput(f"{out} is there already and not empty; name another folder, or remove it", field="OUT")
    require(precision, None)
    small = small_parts(spec)
    source = locate(spec, (*PARTS, *small))
    verify_source(source)
    plan = {part: entries(source, part) for part in PARTS}
    total = sum(stored_bytes(part, e.name, e.shape, precision) for part in PARTS for e in plan[part])
    dtype = compute_dtype(precision)
    wanted = schedules(spec, load_schedule(source / "scheduler"), dtype)
    modulation = [e.shape for e in plan["transformer"] if place("transformer", e.name) == "modulation"]
    needed = total + table_bytes(sum(map(len, wanted)), modulation, dtype)
    _check_space(out, needed)
    origin = Source(id=_id(spec), revision=spec.revision, fingerprint=source_fingerprint(source, (*PARTS, *small)))
    packages = {name: version(name) for name in ("torch", "torchao", "diffusers", "transformers")}
    # The image has the source on PYTHONPATH and no installed darkroom, whose version metadata could tell.
    versions = {"darkroom": __version__, **packages}
    made_from = {
        "source": origin.fingerprint,
        "profile": profile,
        "precision": precision,
        "version of a package": json.dumps(versions),
        "set of schedules": json.dumps(wanted),
        "format": f"{FORMAT} {SHARD_BYTES}",
    }
    with _partial(out, needed) as partial:
        journal = Journal(partial, made_from, tell or (lambda _: None))
        writer = _Writer(partial, precision, total, progress, journal)
        for part in PARTS:
            writer.part(part, plan[part])
        other = _copy_small(source, small, partial)
        for _ in write_tables(partial, writer.sections, wanted, dtype, progress or (lambda *_: None)):
            writer.keep(TABLES)
        manifest = Manifest(
            format=FORMAT,
            profile=profile,
            precision=precision,
            source=origin,
            versions=versions,
            sections={name: tuple(files) for name, files in writer.sections.items()},
            other=tuple(other),
        )
        (partial / MANIFEST).write_text(manifest.model_dump_json(indent=1))
        _settled(partial, MANIFEST)
        journal.close()
    return manifest


class _Writer:
    """Collects tensors per section and writes a file whenever there are enough; what the journal has is not done again.

    The files of a section follow each other in the source's order, so that going on cuts them as one run would.
    """

    def __init__(
        self, folder: Path, precision: Precision, total: int, progress: Progress | None, journal: Journal
    ) -> None:
        self.folder, self.precision, self.total, self.progress = folder, precision, total, progress
        self.sections: dict[str, list[File]] = {}
        self._journal = journal
        self._there = {(one.section, name) for one in journal.finished for name in one.tensors}
        for one in journal.finished:
            self.sections.setdefault(one.section, []).append(one.file)
        self._waiting: dict[str, dict[str, Tensor]] = {}
        self._sources: dict[str, list[str]] = {}
        self._done = 0

    def part(self, part: str, planned: list[Entry]) -> None:
        """Write all of one part."""
        left = []
        for entry in planned:
            if (_section(part, entry), entry.name) in self._there:
                self._report(part, stored_bytes(part, entry.name, entry.shape, self.precision))
            else:
                left.append(entry)
        # File by file, as the source is laid out: nothing is read twice or out of order.
        for entry, tensor in tensors(sorted(left, key=lambda e: e.file)):
            section = _section(part, entry)
            waiting = self._waiting.setdefault(section, {})
            waiting.update(self._stored(part, entry, tensor))
            self._sources.setdefault(section, []).append(entry.name)
            if sum(t.nbytes for t in waiting.values()) >= SHARD_BYTES:
                self._flush(section)
            self._report(part, stored_bytes(part, entry.name, entry.shape, self.precision))
        for section in list(self._waiting):
            self._flush(section)

    def _stored(self, part: str, entry: Entry, tensor: Tensor) -> dict[str, Tensor]:
        scheme = scheme_of(part, entry.name, entry.shape, self.precision)
        dtype = compute_dtype(self.precision)
        if scheme is None:
            return {entry.name: tensor.to(dtype).contiguous()}
        # Rounded to the compute type first, as an unpacked checkpoint is when it is loaded.
        return {f"{entry.name}{ending}": t for ending, t in scheme.quantised(tensor.to(dtype)).items()}

    def _flush(self, section: str) -> None:
        from safetensors.torch import save_file

        waiting = self._waiting.pop(section)
        if not waiting:
            return
        name = f"{section}/{len(self.sections.get(section, [])) + 1:05d}.safetensors"
        (self.folder / section).mkdir(exist_ok=True)
        save_file(waiting, self.folder / name, {"format": "pt"})
        self.keep(section, self._sources.pop(section))

    def keep(self, section: str, sources: Sequence[str] = ()) -> None:
        """Settle the files of a section's folder that are new, and note them; sources: the tensors in them."""
        files = self.sections.setdefault(section, [])
        known = {file.name for file in files}
        for path in sorted((self.folder / section).glob("*.safetensors")):
            name = str(path.relative_to(self.folder))
            if name not in known:
                files.append(_settled(self.folder, name))
                self._journal.add(Finished(section=section, file=files[-1], tensors=tuple(sources)))

    def _report(self, part: str, number: int) -> None:
        self._done += number
        if self.progress:
            self.progress(part, self._done, self.total)


def _section(part: str, entry: Entry) -> str:
    return SECTION.get(place(part, entry.name), part)


def _settled(folder: Path, name: str) -> File:
    """A written file, on the disk for good, and what is there."""
    digest, checksum = hashlib.sha256(), 0
    with (folder / name).open("rb") as file:
        os.fsync(file.fileno())
        while piece := file.read(CHUNK_BYTES):
            digest.update(piece)
            checksum = zlib.crc32(piece, checksum)
        return File(name=name, bytes=file.tell(), sha256=digest.hexdigest(), crc32=checksum)


def _copy_small(source: Path, parts: Sequence[str], folder: Path) -> list[File]:
    """Configurations, the small parts, a miniature's vocabulary."""
    wanted = [source / part / "config.json" for part in PARTS]
    wanted += [path for part in parts for path in sorted((source / part).rglob("*")) if path.is_file()]
    wanted += [path for path in (source / "model_index.json", source / VOCABULARY) if path.is_file()]
    files = []
    for path in wanted:
        name = path.relative_to(source)
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, folder / name)
        files.append(_settled(folder, str(name)))
    return files


@contextmanager
def _partial(out: Path, needed: int) -> Iterator[Path]:
    """A folder beside `out` that becomes `out` when the block ends well; one process at a time writes there."""
    partial = out.with_name(out.name + PARTIAL)
    with _told_when_full(out):
        partial.mkdir(parents=True, exist_ok=True)
    with _locked(partial):
        with _told_when_full(out, needed):
            yield partial
        if out.is_dir():
            out.rmdir()
        partial.rename(out)


@contextmanager
def _told_when_full(out: Path, needed: int | None = None) -> Iterator[None]:
    """A disk that takes no more, as ModelNotReady; needed: bytes of the whole artifact, once its folder is there."""
    from safetensors import SafetensorError

    try:
        yield
    except (OSError, SafetensorError) as error:
        if not _is_full(error):
            raise
        raise ModelNotReady(f"the disk of {out} is full{_how_to_go_on(out, needed)}") from error


def _how_to_go_on(out: Path, needed: int | None) -> str:
    """What a full disk leaves of a pack, after what is half written has been removed."""
    afresh = "; free some space and pack again"
    if needed is None:
        return afresh
    partial = out.with_name(out.name + PARTIAL)
    finished = keep_finished(partial)
    missing = needed - finished - shutil.disk_usage(partial).free
    # Where a quota or the longest file is what ended it, the disk's free space says nothing.
    short = f", {missing / 1e9:.2f} GB are missing" if missing > 0 else ""
    if not finished:
        return short + afresh
    return (
        f"{short}; what is finished ({finished / 1e9:.2f} GB) is kept in {partial.name}: free some space and pack "
        "again, which goes on from there"
    )


def _is_full(error: Exception) -> bool:
    """safetensors wraps the system's error and leaves its number in the text."""
    if isinstance(error, OSError):
        return error.errno in FULL
    return any(f"(os error {number})" in str(error) for number in FULL)


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError:
        raise InvalidInput(f"another pack is writing to {folder}", field="OUT") from None
    finally:
        os.close(handle)


def _check_space(out: Path, needed: int) -> None:
    existing = next(parent for parent in out.absolute().parents if parent.exists())
    # What an interrupted pack has left is either taken or removed.
    left = sum(path.stat().st_size for path in out.with_name(out.name + PARTIAL).rglob("*") if path.is_file())
    free = shutil.disk_usage(existing).free + left
    if free < needed:
        raise ModelNotReady(
            f"the artifact takes {needed / 1e9:.2f} GB and {existing} has {free / 1e9:.2f} GB free: make room, or "
            "name a folder on another disk"
        )


def _id(spec: ModelSpec) -> str:
    """A hub id whole; of a folder its name, since a path tells more than whoever gets the artifact should know."""
    return Path(spec.repo).resolve().name if Path(spec.repo).is_dir() else spec.repo
