"""What a job leaves behind: named files and the manifest that lists them."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Artifact:
    """One file of a job.

    `name` is relative to the job's folder ("frames/frame_0001.png"); `data` the file's bytes;
    `about` what the reply says of it (width, height, seed, prompt …), JSON values only.
    """

    name: str
    media_type: str
    data: bytes = field(repr=False)
    about: dict[str, Any] = field(default_factory=dict)

    @property
    def sha256(self) -> str:
        """Lower-case hex SHA-256 of `data`."""
        return hashlib.sha256(self.data).hexdigest()

    def entry(self) -> dict[str, Any]:
        """The file's line in the manifest."""
        return {
            "name": self.name,
            "media_type": self.media_type,
            "bytes": len(self.data),
            "sha256": self.sha256,
            **self.about,
        }
