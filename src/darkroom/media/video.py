"""Video in and out by PyAV: frames one after the other, and H.264 in MP4 whose bytes depend on the frames alone."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any, BinaryIO

import av
import numpy as np
from av.container import InputContainer
from av.video.frame import VideoFrame
from PIL import Image

from darkroom.errors import DecodeFailed, InputTooLarge, InvalidInput
from darkroom.jobs import Limits

ACCEPTED_VIDEO = "MP4, MOV, WebM, MKV or AVI"
FASTEST = 240
"""Frames per second. Beyond it stands a wrong header."""

# One thread, because x264 decides by how many it has; no macroblock tree, whose assembly gives other bytes from one
# process to the next.
_X264 = "threads=1:mbtree=0"
_BT709 = 1
_LIMITED_RANGE = 1


def is_video(head: bytes) -> str | None:
    """The demuxer for a file by its first 12 bytes, or None.

    It is named to FFmpeg, whose own guess would also take playlists, which open other files and addresses.
    """
    if head[4:8] in (b"ftyp", b"moov", b"mdat", b"wide") and head[8:12] not in (b"avif", b"heic", b"mif1"):
        return "mov"
    if head[:4] == b"\x1a\x45\xdf\xa3":
        return "matroska"
    return "avi" if head[:4] == b"RIFF" and head[8:12] == b"AVI " else None


class Video:
    """A video file, judged by its header and its packets; nothing is decoded before `frames`.

    num_frames: frames that its picture track shows, at most `most` + 1. fps: its average rate, None where it has none.
    size: (width, height) in pixels. Raises DecodeFailed for what is no video, InvalidInput for one without pictures,
    InputTooLarge for frames of more than limits.max_source_pixels.
    """

    def __init__(self, path: Path, field: str, limits: Limits, most: int) -> None:
        self.field, self._path = field, path
        with path.open("rb") as file:
            self._demuxer = is_video(file.read(12))
        if self._demuxer is None:
            raise DecodeFailed(f"{field} is no video of a known kind; send {ACCEPTED_VIDEO}", field=field)
        try:
            with path.open("rb") as file, self._opened(file) as container:
                stream = _pictures(container, field)
                self.size = (stream.width, stream.height)
                self.fps = _rate(stream.average_rate)
                self._refuse_size(limits)
                self.num_frames, packets = _count(container, stream, most)
                if self.num_frames <= most and packets < stream.frames:
                    raise ValueError("the header promises more frames than there are")
        except (av.FFmpegError, ValueError) as error:
            raise DecodeFailed(f"{field} is a damaged or incomplete video", field=field) from error

    def frames(self, start: int = 0) -> Iterator[Image.Image]:
        """RGB frames from number `start` on, upright. Raises DecodeFailed at the first that is damaged."""
        number = 0
        try:
            with self._path.open("rb") as file, self._opened(file) as container:
                for frame in container.decode(_pictures(container, self.field)):
                    if number >= start:
                        yield _upright(frame)
                    number += 1
        except (av.FFmpegError, ValueError) as error:
            raise DecodeFailed(f"{self.field}: its frame {number} is damaged", field=self.field) from error

    def _opened(self, file: BinaryIO) -> InputContainer:
        return av.open(file, "r", format=self._demuxer, options={"protocol_whitelist": ""}, metadata_errors="ignore")

    def _refuse_size(self, limits: Limits) -> None:
        width, height = self.size
        if width * height > limits.max_source_pixels:
            most = f"{limits.max_source_pixels / 1e6:g} megapixels"
            raise InputTooLarge(
                f"{self.field} has frames of {width} × {height} pixels, the limit is {most}", field=self.field
            )


def write_mp4(path: Path, frames: Iterable[Image.Image], fps: Fraction, crf: int = 18) -> None:
    """H.264 in MP4 at `path`, of RGB frames of one size with even sides: the same frames give the same bytes.

    fps: frames per second. crf: x264's constant quality, less is better. Raises ValueError for no frames.
    """
    # bitexact leaves out versions and times.
    options = {"movflags": "+faststart", "fflags": "+bitexact"}
    with av.open(str(path), "w", format="mp4", options=options) as container:
        stream: Any = None
        for number, frame in enumerate(frames):
            if stream is None:
                stream = _h264(container, frame.size, fps, crf)
            packet = _yuv(frame)
            packet.pts, packet.time_base = number, 1 / fps
            container.mux(stream.encode(packet))
        if stream is None:
            raise ValueError("a video needs at least one frame")
        container.mux(stream.encode())


def _h264(container: Any, size: tuple[int, int], fps: Fraction, crf: int) -> Any:
    stream = container.add_stream("libx264", rate=fps)
    stream.width, stream.height = size
    stream.pix_fmt = "yuv420p"
    stream.time_base = 1 / fps
    context = stream.codec_context
    context.thread_count = 1
    context.color_primaries = context.color_trc = context.colorspace = _BT709
    context.color_range = _LIMITED_RANGE
    stream.options = {"crf": str(crf), "preset": "medium", "flags": "+bitexact", "x264-params": _X264}
    return stream


def _yuv(image: Image.Image) -> VideoFrame:
    frame = VideoFrame.from_ndarray(np.asarray(image.convert("RGB")), format="rgb24")
    return frame.reformat(format="yuv420p", dst_colorspace="ITU709", dst_color_range="MPEG")


def _upright(frame: VideoFrame) -> Image.Image:
    """RGB, turned as the track's display matrix says."""
    image = Image.fromarray(frame.to_ndarray(format="rgb24"))
    return image.rotate(frame.rotation, expand=True) if frame.rotation % 360 else image


def _pictures(container: InputContainer, field: str) -> Any:
    if not container.streams.video:
        raise InvalidInput(f"{field} holds no video, only other tracks", field=field)
    stream = container.streams.video[0]
    stream.thread_type = "AUTO"
    return stream


def _count(container: InputContainer, stream: Any, most: int) -> tuple[int, int]:
    """Packets whose frames are shown, and all packets with data; counting stops beyond `most` of the former.

    A trimmed video keeps frames that only others are decoded by, and says so in its edit list.
    """
    shown = packets = 0
    for packet in container.demux(stream):
        packets += packet.size > 0
        shown += packet.size > 0 and not packet.is_discard
        if shown > most:
            break
    return shown, packets


def _rate(rate: Fraction | None) -> Fraction | None:
    return rate if rate is not None and 0 < rate <= FASTEST else None
