"""What each frame of a clip is made from: its edges, and the source frame where a video was given."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from PIL import Image, ImageFilter

from darkroom.errors import DarkroomError, DecodeFailed, InputTooLarge, InvalidInput
from darkroom.jobs import Limits, VideoEdit
from darkroom.media import Video, ZipPictures, decode_image, edge_map, is_video
from darkroom.workers.recipe import Desk

DEFAULT_FPS = Fraction(8)
_DARK_LINES = 128
"""Mean level above which an edge map looks like dark lines on white."""
_ZIPS = (b"PK\x03\x04", b"PK\x05\x06")


@dataclass(frozen=True)
class Take:
    """One frame's guides, RGB at the size of the output. edges: bright lines on black. source: from a source video."""

    frame: int
    edges: Image.Image
    source: Image.Image | None = None


@dataclass(frozen=True)
class Footage:
    """The guides of a clip.

    num_frames: frames to make, frame 0 not counted. fps: of the source, if it has a rate. read: the pictures from one
    frame number on. A source video has one for frame 0 too; edges begin with frame 1.
    """

    num_frames: int
    fps: Fraction | None
    size: tuple[int, int]
    from_video: bool
    read: Callable[[int], Iterator[Image.Image]]
    warn: Callable[[str], None]

    def takes(self, first: int) -> Iterator[Take]:
        """The takes of frames `first` (at least 1, or 0 from a source video) to the last.

        Raises what decoding raises, at the frame that cannot be read, with its number in the details.
        """
        pictures = self.read(first)
        for frame in range(first, self.num_frames + 1):
            try:
                picture = next(pictures, None)
                if picture is None:
                    raise DecodeFailed(f"the video ends after frame {frame - 1}, before its header says")
                take = self._take(frame, picture)
            except DarkroomError as error:
                raise _at_frame(error, frame) from error
            yield take

    def _take(self, frame: int, picture: Image.Image) -> Take:
        if not self.from_video:
            return Take(frame, self._edges(picture, frame))
        source = picture.resize(self.size, Image.Resampling.LANCZOS)
        return Take(frame, edge_map(source), source)

    def _edges(self, picture: Image.Image, frame: int) -> Image.Image:
        lines = shrunk_lines(picture.convert("L"), self.size)
        if np.asarray(lines).mean() > _DARK_LINES:
            self.warn(f"edges: frame {frame} looks like dark lines on white; bright lines on black are expected")
        return lines.convert("RGB")


def shrunk_lines(lines: Image.Image, size: tuple[int, int]) -> Image.Image:
    """An L picture of lines at another size: where it shrinks, lines are widened first, so that they stay bright."""
    ratio = max(lines.width / size[0], lines.height / size[1])
    if ratio >= 2:
        lines = lines.filter(ImageFilter.MaxFilter(2 * round(ratio / 2) + 1))
    return lines if lines.size == size else lines.resize(size, Image.Resampling.BILINEAR)


def open_footage(job: VideoEdit, desk: Desk, size: tuple[int, int], init_size: tuple[int, int]) -> Footage:
    """The job's edges or source video. Nothing but headers and names is read yet.

    size: of the output. init_size: of init_image as it came, to which the frames' shapes are compared.
    Raises InvalidInput for no frames, InputTooLarge for too many, DecodeFailed for what is no zip or video.
    """
    look = _looking(desk, size, init_size)
    if isinstance(job.edges, list):
        return _of_list(job, desk, size, look)
    field, path = next(iter(desk.clips.items()))
    with path.open("rb") as file:
        head = file.read(12)
    if field == "edges" and head.startswith(_ZIPS):
        return _of_zip(job, desk, size, look, ZipPictures(path, field, desk.limits))
    if field == "edges" and is_video(head) is None:
        raise DecodeFailed("edges is neither a zip of pictures nor a video; single pictures go in a list", field=field)
    most = job.max_frames or desk.limits.max_frames
    return _of_video(job, desk, size, look, Video(path, field, desk.limits, most + (field == "source_video")))


Look = Callable[[Image.Image, str], Image.Image]
"""(picture, its name) -> the same picture, after a word in the reply where its shape is not the init frame's."""


def _looking(desk: Desk, size: tuple[int, int], init_size: tuple[int, int]) -> Look:
    told: set[tuple[int, int]] = {init_size, size}

    def look(picture: Image.Image, name: str) -> Image.Image:
        if picture.size not in told and len(told) < 8:
            told.add(picture.size)
            stretched = abs(picture.width * init_size[1] - picture.height * init_size[0]) > max(
                *picture.size, *init_size
            )
            how = "stretched" if stretched else "resized"
            desk.warn(
                f"{name}: {picture.width} × {picture.height} is not the size of init_image, {init_size[0]} × "
                f"{init_size[1]}; frames like it were {how} to {size[0]} × {size[1]}"
            )
        return picture

    return look


def _of_list(job: VideoEdit, desk: Desk, size: tuple[int, int], look: Look) -> Footage:
    assert isinstance(job.edges, list)
    count = min(len(job.edges), job.max_frames or len(job.edges))

    def read(first: int) -> Iterator[Image.Image]:
        for index in range(first - 1, count):
            name = f"edges[{index}]"
            yield look(_decoded(desk, desk.files[name], name), name)

    return Footage(count, None, size, False, read, desk.warn)


def _of_zip(job: VideoEdit, desk: Desk, size: tuple[int, int], look: Look, pictures: ZipPictures) -> Footage:
    count = _counted(len(pictures), job, desk.limits, "edges")
    for note in pictures.notes():
        desk.warn(note)

    def read(first: int) -> Iterator[Image.Image]:
        for index in range(first - 1, count):
            name = pictures.name(index)
            yield look(_decoded(desk, pictures.read(index), name), name)

    return Footage(count, None, size, False, read, desk.warn)


def _of_video(job: VideoEdit, desk: Desk, size: tuple[int, int], look: Look, video: Video) -> Footage:
    from_source = video.field == "source_video"
    found = video.num_frames - from_source
    if found < 1:
        least = "only one frame, which stands for init_image" if video.num_frames else "no frames"
        raise InvalidInput(f"{video.field} has {least}", field=video.field)
    count = _counted(found, job, desk.limits, video.field)

    def read(first: int) -> Iterator[Image.Image]:
        for picture in video.frames(first if from_source else first - 1):
            yield look(picture, video.field)

    return Footage(count, video.fps, size, from_source, read, desk.warn)


def _counted(found: int, job: VideoEdit, limits: Limits, field: str) -> int:
    if job.max_frames is None and found > limits.max_frames:
        raise InputTooLarge(
            f"{field} has more than {limits.max_frames:,} frames, the limit; max_frames takes the first so many",
            field=field,
        )
    return min(found, job.max_frames or found)


def _decoded(desk: Desk, data: bytes, name: str) -> Image.Image:
    picture = decode_image(data, name, desk.limits)
    for note in picture.notes:
        desk.warn(note)
    return picture.image


def _at_frame(error: DarkroomError, frame: int) -> DarkroomError:
    kept = f"the {frame} frames before it are kept" if frame > 1 else "only frame 0 is kept"
    message = f"{error.message} (frame {frame}; {kept})"
    return type(error)(message, field=error.field, details={**error.details, "frame": frame})
