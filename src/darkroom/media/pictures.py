"""Bytes to pictures, pictures to tensors, and back.

Inputs are PNG, JPEG, WebP, BMP, TIFF and still GIF, judged by their bytes and never by name or media type. What
moves is refused: an edit of its first frame alone would not be what was asked for. Every picture becomes 8-bit
RGB the way its owner sees it: turned by its EXIF orientation, in sRGB by its own colour profile, on white where
it is transparent. What had to be guessed or left out stands in the picture's notes.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from io import BytesIO
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageCms, ImageDraw, ImageFont, UnidentifiedImageError
from torch import Tensor

from darkroom.errors import DarkroomError, DecodeFailed, InputTooLarge, Internal, InvalidInput
from darkroom.jobs import Limits

OutputFormat = Literal["png", "webp", "jpeg"]

MIN_SIDE = 8
"""Pixels. Less than this is a favicon or an accident."""
MAX_ASPECT = 30
"""Long side over short side. Beyond it, the resized picture would be a few pixels high."""
ACCEPTED = "PNG, JPEG, WebP, BMP, TIFF or a still GIF"

_FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF", "GIF")
_ORIENTATION_TAG = 0x0112
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""EXIF orientation -> what turns the picture upright; 1 is upright already."""

# What Pillow's decoders were seen to raise on damaged files, or document; anything else is a defect of ours.
_DAMAGE = (
    OSError, ValueError, SyntaxError, EOFError, LookupError, TypeError, OverflowError, AssertionError,
    struct.error, zlib.error,
)  # fmt: skip

_SIGNATURES = (
    (b"%PDF", "a PDF"),
    (b"PK\x03\x04", "a ZIP archive"),
    (b"\x1f\x8b", "a gzip archive"),
    (b"8BPS", "a Photoshop file"),
    (b"\x00\x00\x01\x00", "an icon"),
    (b"\x1a\x45\xdf\xa3", "a video"),
    (b"\xff\x0a", "a JPEG XL picture"),
    (b"\x00\x00\x00\x0cJXL ", "a JPEG XL picture"),
    (b"\x00\x00\x00\x0cjP  ", "a JPEG 2000 picture"),
)
_BRANDS = {b"heic": "a HEIC picture", b"heix": "a HEIC picture", b"mif1": "a HEIC picture",
           b"msf1": "a HEIC picture", b"avif": "an AVIF picture", b"avis": "an AVIF picture"}  # fmt: skip


@dataclass(frozen=True)
class Picture:
    """A decoded source: an RGB image, and sentences for the reply's warnings on what was guessed or left out."""

    image: Image.Image
    notes: tuple[str, ...] = ()


# -- decoding -----------------------------------------------------------------------------------


def decode_image(data: bytes, field: str, limits: Limits) -> Picture:
    """The picture in `data` as 8-bit RGB. Errors and notes name `field`.

    Raises InputTooLarge above limits.max_source_bytes or, judged by the header before anything is unpacked,
    limits.max_source_pixels; DecodeFailed for damaged files, other formats and moving pictures; InvalidInput
    for less than 8 pixels a side or more than 30:1.
    """
    with _about(field):
        if len(data) > limits.max_source_bytes:
            raise InputTooLarge(f"has {len(data)} bytes, the limit is {limits.max_source_bytes}")
        with _opened(data) as image:
            _refuse_shape(image.size, limits)
            _refuse_motion(image)
            notes: list[str] = []
            pixels = _rgb(_upright(_eight_bits(image, data), image, notes), image, notes)
    return Picture(pixels, tuple(f"{field}: {note}" for note in notes))


@contextmanager
def _about(field: str) -> Iterator[None]:
    """What goes wrong in here is said of `field`."""
    try:
        yield
    except DarkroomError as error:
        raise type(error)(f"{field} {error.message}", field=field, details=error.details) from error


@contextmanager
def _opened(data: bytes) -> Iterator[Image.Image]:
    """The picture with only its header read. What a decoder raises in here says that the file is damaged."""
    try:
        with Image.open(BytesIO(data), formats=_FORMATS) as image:
            yield image
    except UnidentifiedImageError:
        raise DecodeFailed(f"is {_kind(data)}; send {ACCEPTED}") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise InputTooLarge("would unpack to far more pixels than the limit") from None
    except _DAMAGE as error:
        raise DecodeFailed("is damaged or incomplete and cannot be decoded") from error


def _kind(data: bytes) -> str:
    """What a file that is no picture seems to be, for the sentence that refuses it."""
    if not data:
        return "empty"
    if data[4:8] == b"ftyp":
        return _BRANDS.get(data[8:12], "a video")
    for signature, name in _SIGNATURES:
        if data.startswith(signature):
            return name
    return _kind_of_text(data[:4096])


def _kind_of_text(head: bytes) -> str:
    try:
        # The cut may go through a character, which is no reason to call it binary.
        text = head.decode("utf-8-sig", errors="strict" if len(head) < 4096 else "ignore").lower()
    except UnicodeDecodeError:
        return "not a picture of a known format, or a damaged one"
    if "<svg" in text:
        return "an SVG drawing, which has no pixels"
    if "<html" in text or "<!doctype html" in text:
        return "a web page"
    return "text" if "\x00" not in text else "not a picture"


def _refuse_shape(size: tuple[int, int], limits: Limits) -> None:
    width, height = size
    if width * height > limits.max_source_pixels:
        raise InputTooLarge(
            f"has {width} × {height} pixels, the limit is {limits.max_source_pixels / 1e6:g} megapixels"
        )
    if min(size) < MIN_SIDE:
        raise InvalidInput(f"has {width} × {height} pixels; each side must have at least {MIN_SIDE}")
    if max(size) > MAX_ASPECT * min(size):
        raise InvalidInput(f"has {width} × {height} pixels; the sides may differ by at most {MAX_ASPECT}:1")


def _refuse_motion(image: Image.Image) -> None:
    # A JPEG of several pictures (MPO) is a photo with its preview or depth map: the first one is the photo.
    if image.format != "MPO" and getattr(image, "is_animated", False):
        what = "a file of several pages" if image.format == "TIFF" else f"an animated {image.format}"
        raise DecodeFailed(f"is {what}; send a still picture")


def _eight_bits(image: Image.Image, data: bytes) -> Image.Image:
    """The decoded picture with 8 bits a sample, 16 bits being rounded and not cut off."""
    image.load()
    if image.mode.startswith("I;16"):
        return _from_sixteen_bits(np.asarray(image), image.info.get("transparency"))
    if image.mode in ("I", "F"):
        raise DecodeFailed("has 32-bit samples, for which there is no agreed white; send 8 or 16 bits")
    if image.format == "PNG" and data[24] == 16:
        return _from_sixteen_bits(_png_samples(data), image.info.get("transparency"))
    return image


def _png_samples(data: bytes) -> NDArray[np.uint16]:
    """[H, W, 3 or 4] of a 16-bit colour PNG, of which Pillow keeps the upper bytes only (as of a TIFF's)."""
    import cv2  # 0.2 s, for rare files

    samples = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if samples is None or samples.dtype != np.uint16 or samples.ndim != 3:
        raise DecodeFailed("has 16-bit samples that cannot be decoded")
    order = [2, 1, 0, 3][: samples.shape[2]]
    return samples[:, :, order].astype(np.uint16, copy=False)


def _from_sixteen_bits(samples: NDArray[np.uint16], transparent: Any) -> Image.Image:
    """Each sample v becomes round(v / 257); `transparent` is the one colour that the PNG declares to be clear."""
    picture = Image.fromarray(_eighths()[samples])
    # OpenCV has made an alpha channel of that colour where it could.
    if transparent is not None and samples.shape[2:] != (4,):
        clear = samples == np.asarray(transparent, dtype=np.uint16)
        clear = clear.all(axis=-1) if clear.ndim == 3 else clear
        picture.putalpha(Image.fromarray(np.where(clear, 0, 255).astype(np.uint8)))
    return picture


@cache
def _eighths() -> NDArray[np.uint8]:
    """round(v / 257) for each 16-bit v; 257 is odd, so nothing falls halfway."""
    return ((np.arange(65_536) + 128) // 257).astype(np.uint8)


def _upright(picture: Image.Image, source: Image.Image, notes: list[str]) -> Image.Image:
    """Turned by the EXIF orientation (Pillow has turned a TIFF while decoding it)."""
    try:
        orientation = source.getexif().get(_ORIENTATION_TAG)
    except _DAMAGE:
        notes.append("its EXIF data is damaged, so it was taken as it lies")
        return picture
    turn = _UPRIGHT.get(orientation) if isinstance(orientation, int) else None
    return picture if turn is None else picture.transpose(turn)


def _rgb(picture: Image.Image, source: Image.Image, notes: list[str]) -> Image.Image:
    """sRGB on white; a fresh image without metadata."""
    if source.format == "MPO":
        notes.append("it holds several pictures, of which the first was taken")
    colours, alpha = _without_alpha(picture)
    colours = _in_srgb(colours, source.info.get("icc_profile"), notes).convert("RGB")
    if alpha is not None and alpha.getextrema() != (255, 255):
        notes.append("its transparent parts were laid on white")
        colours = Image.composite(colours, Image.new("RGB", colours.size, "white"), alpha)
    colours.info = {}
    return colours


def _without_alpha(picture: Image.Image) -> tuple[Image.Image, Image.Image | None]:
    """(L, RGB or CMYK, its alpha as L or None)."""
    if picture.has_transparency_data:
        clear = picture.convert("RGBA")
        return clear.convert("RGB"), clear.getchannel("A")
    return (picture if picture.mode in ("L", "RGB", "CMYK") else picture.convert("RGB")), None


def _in_srgb(colours: Image.Image, profile: bytes | None, notes: list[str]) -> Image.Image:
    """Converted by the embedded profile, relative colorimetric with black point compensation, as printers do."""
    try:
        if profile:
            return _converted(colours, ImageCms.ImageCmsProfile(BytesIO(profile)))
    except (ImageCms.PyCMSError, *_DAMAGE):
        notes.append("its colour profile does not fit it or is damaged, and was ignored")
    if colours.mode == "CMYK":
        notes.append("its CMYK colours were converted without a profile")
    return colours


def _converted(colours: Image.Image, profile: ImageCms.ImageCmsProfile) -> Image.Image:
    description = profile.profile.profile_description or ""
    if colours.mode == "RGB" and "srgb" in description.lower():
        return colours  # there and back would only add rounding
    converted = ImageCms.profileToProfile(
        colours,
        profile,
        ImageCms.createProfile("sRGB"),
        renderingIntent=ImageCms.Intent.RELATIVE_COLORIMETRIC,
        outputMode="RGB",
        flags=ImageCms.Flags.BLACKPOINTCOMPENSATION,
    )
    assert converted is not None  # None only when converting in place
    return converted


# -- encoding -----------------------------------------------------------------------------------


def encode_image(image: Image.Image, output_format: OutputFormat, quality: int = 95) -> tuple[bytes, str]:
    """(file, media type) of an RGB or L image. The same pixels give the same bytes, without any metadata.

    `quality` is 1…100 for webp and jpeg; png is lossless.
    """
    if image.mode not in ("RGB", "L"):
        raise ValueError(f"only RGB and L images are encoded, not {image.mode}")
    bare = image.copy()
    bare.info = {}  # Pillow would write profile, comment and EXIF from here
    file = BytesIO()
    bare.save(file, format=output_format.upper(), **_encoder(output_format, quality))
    return file.getvalue(), f"image/{output_format}"


def _encoder(output_format: OutputFormat, quality: int) -> dict[str, Any]:
    match output_format:
        case "png":
            return {"compress_level": 4}  # as small as level 6 on photographs, in two thirds of its time
        case "webp":
            return {"quality": quality, "method": 4}
        case "jpeg":
            # Halved colour resolution shows in red edges, and who asks for 90 and more would mind.
            return {"quality": quality, "subsampling": 0 if quality >= 90 else 2, "optimize": True}


# -- tensors ------------------------------------------------------------------------------------


def to_tensor(image: Image.Image) -> Tensor:
    """RGB -> float32 [3, H, W] in [−1, 1], −1 being black; equal to diffusers' VaeImageProcessor.preprocess."""
    pixels = torch.from_numpy(np.asarray(image.convert("RGB")).astype(np.float32) / 255.0)
    return 2.0 * pixels.permute(2, 0, 1).contiguous() - 1.0


def to_uint8(pixels: Tensor) -> Image.Image:
    """[3, H, W] in [−1, 1], beyond which it is clamped -> RGB; equal to diffusers' VaeImageProcessor.postprocess.

    Raises Internal where the tensor holds NaN or infinity, which would otherwise pass for black or white.
    """
    if not bool(torch.isfinite(pixels).all()):
        raise Internal("the model computed something that is not a picture (NaN)")
    # In the tensor's own precision up to here, in float32 from here on: diffusers' order, and so its rounding.
    scaled = (pixels * 0.5 + 0.5).clamp(0, 1).permute(1, 2, 0).cpu().float().numpy()
    return Image.fromarray((scaled * 255).round().astype(np.uint8))


# -- pictures for people ------------------------------------------------------------------------


def side_by_side(before: Image.Image, after: Image.Image, labels: tuple[str, str] = ("before", "after")) -> Image.Image:
    """Both pictures at the height of the second, labelled."""
    width = max(1, round(before.width * after.height / before.height))
    matched = before.resize((width, after.height), Image.Resampling.LANCZOS)
    return labelled_grid([[matched, after]], column_labels=labels)


def labelled_grid(
    rows: Sequence[Sequence[Image.Image]],
    row_labels: Sequence[str] = (),
    column_labels: Sequence[str] = (),
) -> Image.Image:
    """RGB: rows of pictures on white, each in a cell as large as the largest, labels above and to the left.

    Raises ValueError where there are labels, but not one for each row or column.
    """
    num_columns = max((len(row) for row in rows), default=0)
    if row_labels and len(row_labels) != len(rows):
        raise ValueError(f"{len(row_labels)} labels for {len(rows)} rows")
    if column_labels and len(column_labels) != num_columns:
        raise ValueError(f"{len(column_labels)} labels for {num_columns} columns")
    layout = _Layout.of(rows, row_labels, column_labels)
    sheet = Image.new("RGB", layout.size(len(rows), num_columns), "white")
    draw = ImageDraw.Draw(sheet)
    for y, row in enumerate(rows):
        for x, picture in enumerate(row):
            sheet.paste(picture.convert("RGB"), layout.place(x, y, picture.size))
    for x, label in enumerate(column_labels):
        draw.text(layout.above(x), layout.fitted(label, layout.cell[0]), "black", layout.font, anchor="mm")
    for y, label in enumerate(row_labels):
        draw.text(layout.beside(y), layout.fitted(label, layout.left), "black", layout.font, anchor="rm")
    return sheet


@cache
def _font(size: int) -> ImageFont.FreeTypeFont:
    """DejaVu Sans, which has Greek, Cyrillic and signs such as α and −; no Chinese.

    matplotlib brings it along, but is not imported for it: that would touch the user's configuration folder.
    """
    spec = find_spec("matplotlib")
    assert spec is not None, "matplotlib is a requirement"
    assert spec.origin is not None
    return ImageFont.truetype(Path(spec.origin).parent / "mpl-data" / "fonts" / "ttf" / "DejaVuSans.ttf", size)


@dataclass(frozen=True)
class _Layout:
    """Where things lie on a sheet; all numbers are pixels."""

    cell: tuple[int, int]
    left: int
    top: int
    gap: int
    font: ImageFont.FreeTypeFont

    @classmethod
    def of(
        cls, rows: Sequence[Sequence[Image.Image]], row_labels: Sequence[str], column_labels: Sequence[str]
    ) -> _Layout:
        pictures = [picture for row in rows for picture in row]
        cell = max((p.width for p in pictures), default=1), max((p.height for p in pictures), default=1)
        font_size = max(11, min(40, cell[1] // 20))
        font = _font(font_size)
        widest = max((int(font.getlength(label)) + 1 for label in row_labels), default=0)
        return cls(cell, min(widest, cell[0]), 2 * font_size if column_labels else 0, max(4, font_size // 2), font)

    def size(self, num_rows: int, num_columns: int) -> tuple[int, int]:
        edge = self._corner(num_columns, num_rows)
        return max(1, edge[0]), max(1, edge[1])

    def place(self, x: int, y: int, size: tuple[int, int]) -> tuple[int, int]:
        """The upper left corner of a picture of this size, in the middle of its cell."""
        corner = self._corner(x, y)
        return corner[0] + (self.cell[0] - size[0]) // 2, corner[1] + (self.cell[1] - size[1]) // 2

    def above(self, x: int) -> tuple[int, int]:
        return self._corner(x, 0)[0] + self.cell[0] // 2, self.gap + self.top // 2

    def beside(self, y: int) -> tuple[int, int]:
        return self.gap + self.left, self._corner(0, y)[1] + self.cell[1] // 2

    def fitted(self, label: str, width: int) -> str:
        """The label on one line, its end left out where it is wider than `width`."""
        label = " ".join(label.split())
        if self.font.getlength(label) <= width:
            return label
        while label and self.font.getlength(f"{label}…") > width:
            label = label[:-1]
        return f"{label.rstrip()}…"

    def _corner(self, x: int, y: int) -> tuple[int, int]:
        margin = self.gap + self.left + (self.gap if self.left else 0), self.gap + self.top
        return margin[0] + x * (self.cell[0] + self.gap), margin[1] + y * (self.cell[1] + self.gap)
