"""The finished clip: its frames on disk, and the films and the sheet made of them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

from PIL import Image

from darkroom.artifacts import Artifact
from darkroom.media import encode_image, labelled_grid, write_mp4
from darkroom.workers.video.footage import Footage, Take

_SHEET_COLUMNS = 8
_SHEET_SIDE = 256
"""Pixels of a picture's longer side on the contact sheet."""


def frame_name(frame: int) -> str:
    """A frame's file in the job's folder."""
    return f"frames/frame_{frame:04d}.png"


@dataclass(frozen=True)
class Cut:
    """A clip in `folder`, where each frame lies under its name. Nothing is held in memory but what is being made."""

    folder: Path
    footage: Footage
    fps: Fraction

    def keep(self, frame: int, data: bytes) -> None:
        """Put a frame's file in its place."""
        path = self.folder / frame_name(frame)
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(data)

    def frame(self, number: int) -> Image.Image:
        """One frame, as stored."""
        with Image.open(self.folder / frame_name(number)) as image:
            return image.convert("RGB")

    def video(self) -> Artifact:
        """video.mp4."""
        return self._film("video.mp4", (self.frame(number) for number in range(self.footage.num_frames + 1)))

    def side_by_side(self) -> Artifact:
        """side_by_side.mp4: source where there is one, edges and result."""
        pairs = (_beside(self._guides(take), self.frame(number)) for number, take in self._takes())
        return self._film("side_by_side.mp4", pairs)

    def contact_sheet(self) -> Artifact:
        """contact_sheet.png: a few frames, evenly apart, under their edges and sources."""
        last = self.footage.num_frames
        few = min(_SHEET_COLUMNS, last + 1)
        chosen = [round(k * last / max(few - 1, 1)) for k in range(few)]
        columns = [
            [_small(picture) for picture in (*self._guides(take), self.frame(number))]
            for number, take in self._takes()
            if number in chosen
        ]
        rows = [list(row) for row in zip(*columns, strict=True)]
        labels = ["source", "edges", "result"][-len(rows) :]
        sheet = labelled_grid(rows, labels, [f"frame {number}" for number in chosen])
        return Artifact("contact_sheet.png", "image/png", encode_image(sheet, "png")[0])

    def _takes(self) -> Iterator[tuple[int, Take | None]]:
        """Every frame's number and take; without a source video frame 0 has none."""
        if not self.footage.from_video:
            yield 0, None
        for take in self.footage.takes(0 if self.footage.from_video else 1):
            yield take.frame, take

    def _guides(self, take: Take | None) -> list[Image.Image]:
        if take is None:
            return [Image.new("RGB", self.footage.size)]
        return [take.edges] if take.source is None else [take.source, take.edges]

    def _film(self, name: str, frames: Iterator[Image.Image]) -> Artifact:
        path = self.folder / name
        write_mp4(path, frames, self.fps)
        return Artifact(name, "video/mp4", path.read_bytes(), {"fps": float(self.fps)})


def _beside(guides: list[Image.Image], result: Image.Image) -> Image.Image:
    panels = [*guides, result]
    sheet = Image.new("RGB", (result.width * len(panels), result.height))
    for number, panel in enumerate(panels):
        sheet.paste(panel, (number * result.width, 0))
    return sheet


def _small(picture: Image.Image) -> Image.Image:
    small = picture.copy()
    small.thumbnail((_SHEET_SIDE, _SHEET_SIDE), Image.Resampling.LANCZOS)
    return small
