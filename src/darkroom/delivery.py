"""From a finished result to the caller: files and manifest into the store, then links or bytes into the reply.

The reply is always built from the manifest, so that a repeated idempotency key is answered by the same code.
"""

from __future__ import annotations

import base64
import json
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from darkroom.artifacts import Artifact
from darkroom.errors import InvalidInput, ResultTooLarge
from darkroom.storage import MissingKey, Store

MANIFEST = "manifest.json"
BASE64_GROWTH = 4 / 3
FRAME_FIELDS = ("frame", "name", "sha256", "width", "height", "seed")
Delivery = Literal["auto", "s3", "base64"]


@dataclass(frozen=True)
class Wish:
    """How the caller wants the files: delivery, and for how many seconds links shall open."""

    delivery: Delivery = "auto"
    expires_seconds: int = 3600


def folder_of(job_id: str) -> str:
    """The job's folder in the store: its id, with everything but plain characters replaced."""
    name = re.sub(r"[^A-Za-z0-9_-]", "_", job_id)[:200]
    return name or "job"


def check_wish(wish: Wish, store: Store) -> None:
    """Refuse before any work what this store cannot deliver. Raises InvalidInput."""
    if wish.delivery == "s3" and not store.links:
        raise InvalidInput(
            "delivery: s3 needs a bucket, and this worker stores to a folder without links; use auto or base64, "
            "or send s3Config",
            field="delivery",
        )


def store_files(store: Store, folder: str, artifacts: Sequence[Artifact]) -> None:
    """Put every file under the job's folder. Raises UploadFailed."""
    for artifact in artifacts:
        store.put(f"{folder}/{artifact.name}", artifact.data, artifact.media_type)


def store_manifest(store: Store, folder: str, manifest: dict[str, Any]) -> None:
    """Put the manifest, last of all, so that its presence means that the result is whole. Raises UploadFailed."""
    data = json.dumps(manifest, indent=2, sort_keys=True).encode()
    store.put(f"{folder}/{MANIFEST}", data, "application/json")


def load_manifest(store: Store, folder: str) -> dict[str, Any] | None:
    """A stored manifest, or None. Raises FetchFailed."""
    try:
        manifest: dict[str, Any] = json.loads(store.get(f"{folder}/{MANIFEST}"))
    except MissingKey:
        return None
    return manifest


def whole(store: Store, manifest: dict[str, Any]) -> bool:
    """Whether every file of a manifest is still in the store. Raises FetchFailed."""
    folder = manifest["folder"]
    return {f"{folder}/{entry['name']}" for entry in manifest["files"]} <= set(store.keys(f"{folder}/"))


def reply(store: Store, manifest: dict[str, Any], wish: Wish, most_bytes: int) -> dict[str, Any]:
    """The job's answer, at most `most_bytes` as JSON. Raises ResultTooLarge with the files' keys in the details."""
    linked = store.links and wish.delivery != "base64"
    warnings = list(manifest["warnings"])
    if not linked and not _fits(manifest, most_bytes):
        if not store.links:
            raise _too_large(store, manifest, most_bytes)
        warnings.append("the result is too large for base64 in a reply; it is answered with links")
        linked = True
    return _checked(_reply(store, manifest, wish, warnings, linked), store, manifest, most_bytes)


def _reply(store: Store, manifest: dict[str, Any], wish: Wish, warnings: list[str], linked: bool) -> dict[str, Any]:
    folder, expires = manifest["folder"], wish.expires_seconds
    inline = not linked

    def told(entry: dict[str, Any], *about: str, inline: bool = inline) -> dict[str, Any]:
        key = f"{folder}/{entry['name']}"
        url = data_uri(entry["media_type"], store.get(key)) if inline else _link(store, key, expires)
        until = _expires_at(expires) if url and not inline and store.links_expire else None
        return {"url": url, "key": store.place(key), **{name: entry.get(name) for name in about}, "expires_at": until}

    images = [told(entry, "sha256", "width", "height", "seed", "prompt") for entry in _pictures(manifest)]
    frames = [told(entry, *FRAME_FIELDS, inline=False) for entry in _frames(manifest)]
    files = [told(entry, "name", "media_type", "bytes", "sha256") for entry in _others(manifest)]
    video = next((file["url"] for file in files if file["media_type"].startswith("video/")), None)
    return {
        **({"image_url": images[0]["url"], "images": images} if images else {}),
        **({"video_url": video} if video else {}),
        **({"files": files} if files else {}),
        **({"frames": frames} if frames else {}),
        "manifest_url": _link(store, f"{folder}/{MANIFEST}", expires),
        **manifest["reply"],
        "warnings": warnings,
        "timings": manifest["timings"],
        "cost": manifest["cost"],
    }


def announced(store: Store, folder: str, entry: dict[str, Any], wish: Wish) -> dict[str, Any]:
    """What progress says of a file that is stored while its job goes on: its line, key, and link where there is one."""
    key = f"{folder}/{entry['name']}"
    return {"url": _link(store, key, wish.expires_seconds), "key": store.place(key), **entry}


def _link(store: Store, key: str, seconds: int) -> str | None:
    return store.link(key, seconds) if store.links else None


def _pictures(manifest: dict[str, Any]) -> list[dict[str, Any]]:
    """The results that the caller asked for: pictures made from a seed, without plots and grids."""
    return [entry for entry in manifest["files"] if _kind(entry) == "picture"]


def _frames(manifest: dict[str, Any]) -> list[dict[str, Any]]:
    """The single pictures of a clip. They come as links alone: as data they would be the clip once more."""
    return [entry for entry in manifest["files"] if _kind(entry) == "frame"]


def _others(manifest: dict[str, Any]) -> list[dict[str, Any]]:
    """Clips, tables, plots and sheets."""
    return [entry for entry in manifest["files"] if _kind(entry) == "file"]


def _kind(entry: dict[str, Any]) -> str:
    if "frame" in entry:
        return "frame"
    return "picture" if entry["media_type"].startswith("image/") and "seed" in entry else "file"


def data_uri(media_type: str, data: bytes) -> str:
    """The bytes as a data URI."""
    return f"data:{media_type};base64,{base64.b64encode(data).decode()}"


def _fits(manifest: dict[str, Any], most_bytes: int) -> bool:
    """Whether the files can stand in the reply; the first picture and clip stand there twice (image_url, video_url)."""
    pictures, others = _pictures(manifest), _others(manifest)
    clips = [entry for entry in others if entry["media_type"].startswith("video/")]
    total = sum(entry["bytes"] for entry in (*pictures, *pictures[:1], *others, *clips[:1]))
    return bool(total * BASE64_GROWTH < most_bytes * 0.98)


def _checked(answer: dict[str, Any], store: Store, manifest: dict[str, Any], most_bytes: int) -> dict[str, Any]:
    # The SDK loses what is no JSON or too long with no more than a line in the log, so it is measured here.
    if len(json.dumps(answer, ensure_ascii=False, allow_nan=False).encode()) > most_bytes:
        raise _too_large(store, manifest, most_bytes)
    return answer


def _too_large(store: Store, manifest: dict[str, Any], most_bytes: int) -> ResultTooLarge:
    keys = [store.place(f"{manifest['folder']}/{entry['name']}") for entry in manifest["files"]]
    return ResultTooLarge(
        f"the result is stored, but larger than the {most_bytes / 1e6:.1f} MB that a reply may have, and this worker's "
        "store makes no links; use a bucket, fewer images, or webp",
        details={"keys": keys[:100]},
    )


def _expires_at(seconds: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + seconds))
