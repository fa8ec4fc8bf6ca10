"""What a job named, fetched: pictures in memory, or on disk where there may be thousands; clips always on disk."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path

from darkroom import fetch
from darkroom.errors import InputTooLarge, InvalidInput
from darkroom.jobs import JobInput, Limits
from darkroom.settings import Settings
from darkroom.storage import MissingKey, Store

AT_ONCE = 16
"""Pictures in memory at a time, where they go to disk."""


class OnDisk(Mapping[str, bytes]):
    """Field -> bytes, each read when it is asked for."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._paths: dict[str, Path] = {}

    def keep(self, field: str, data: bytes) -> Path:
        """Write one source down; its place."""
        path = self._folder / f"source-{len(self._paths)}"
        path.write_bytes(data)
        self._paths[field] = path
        return path

    def __getitem__(self, field: str) -> bytes:
        return self._paths[field].read_bytes()

    def __iter__(self) -> Iterator[str]:
        return iter(self._paths)

    def __len__(self) -> int:
        return len(self._paths)


def fetch_files(
    job: JobInput, limits: Limits, settings: Settings, store: Store, folder: Path | None
) -> Mapping[str, bytes]:
    """Pictures within the picture limit, weights that come by address within theirs, files of earlier jobs; by field.

    folder: where pictures lie meanwhile; None keeps them in memory. Raises what `fetch` raises, and InputTooLarge
    where pictures on disk weigh more than a clip may.
    """
    pictures = job.sources()
    others = {**_weights(job, limits, settings, store), **_stored(job, store)}
    if folder is not None:
        files = _to_disk(pictures, limits, settings, store, OnDisk(folder))
        for field, data in others.items():
            files.keep(field, data)
        return files
    return fetch.fetch_all(pictures, limits, store, allow_private=settings.allow_private_urls) | others


def _weights(job: JobInput, limits: Limits, settings: Settings, store: Store) -> dict[str, bytes]:
    weights = job.weight_sources()
    if not weights:
        return {}
    larger = _with_limits(limits, limits.max_lora_bytes, settings.fetch_lora_seconds)
    return fetch.fetch_all(weights, larger, store, allow_private=settings.allow_private_urls)


def _stored(job: JobInput, store: Store) -> dict[str, bytes]:
    """Files that earlier jobs have left. Raises InvalidInput for a key under which there is nothing."""
    found = {}
    for field, key in job.stored_sources().items():
        try:
            found[field] = store.get(store.key_of(key))
        except (MissingKey, ValueError):
            raise InvalidInput(f"{field}: this worker's store has no such file", field=field) from None
    return found


def fetch_clips(job: JobInput, limits: Limits, settings: Settings, store: Store, folder: Path) -> dict[str, Path]:
    """Videos and archives within the clip limit, by field, as files in `folder`."""
    larger = _with_limits(limits, limits.max_clip_bytes, settings.fetch_clip_seconds)
    clips = {}
    for field, address in job.clip_sources().items():
        clips[field] = folder / field
        if address.startswith("s3://") and address.endswith("/"):
            _zip_of(address, field, larger, store, clips[field])
            continue
        private = settings.allow_private_urls
        clips[field].write_bytes(fetch.fetch_image_bytes(address, field, larger, store, allow_private=private))
    return clips


def _zip_of(prefix: str, field: str, limits: Limits, store: Store, path: Path) -> None:
    """Everything below an s3:// prefix as one zip, so that a folder is read as an archive is."""
    with fetch.about(field):
        # What makes a folder in a console leaves an empty object of the folder's own name.
        addresses = [address for address in store.below(prefix) if not address.endswith("/")]
    if len(addresses) > limits.max_frames:
        raise InputTooLarge(f"{field} has {len(addresses)} files, the limit is {limits.max_frames}", field=field)
    weight = 0
    with zipfile.ZipFile(path, "w") as archive:
        for address in addresses:
            data = fetch.fetch_image_bytes(address, field, limits, store)
            weight += len(data)
            if weight > limits.max_source_bytes:
                raise InputTooLarge(f"{field} holds more than {limits.max_source_bytes} bytes", field=field)
            archive.writestr(zipfile.ZipInfo(address.removeprefix(prefix)), data)


def _to_disk(pictures: Mapping[str, str], limits: Limits, settings: Settings, store: Store, files: OnDisk) -> OnDisk:
    left, weight = iter(pictures.items()), 0
    while some := dict(islice(left, AT_ONCE)):
        fetched = fetch.fetch_all(some, limits, store, allow_private=settings.allow_private_urls)
        for field, data in fetched.items():
            weight += len(data)
            if weight > limits.max_clip_bytes:
                raise InputTooLarge(
                    f"{field}: with it the frames weigh more than {limits.max_clip_bytes} bytes, the limit for a clip",
                    field=field,
                )
            files.keep(field, data)
    return files


def _with_limits(limits: Limits, most_bytes: int, seconds: float) -> Limits:
    return limits.model_copy(update={"max_source_bytes": most_bytes, "fetch_seconds": seconds})
