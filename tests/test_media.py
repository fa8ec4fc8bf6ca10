"""Media: a picture comes in as its owner sees it, goes out as it was made, and a bad file is named for what it is."""

from __future__ import annotations

import struct
import warnings
import zlib
from collections.abc import Iterable
from io import BytesIO
from typing import Any

import numpy as np
import pytest
import torch
from diffusers.image_processor import VaeImageProcessor
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image, ImageCms

from darkroom import media
from darkroom.errors import BadJob, DarkroomError, DecodeFailed, InputTooLarge, Internal, InvalidInput
from darkroom.jobs import Limits
from darkroom.media import Picture, decode_image, encode_image, labelled_grid, side_by_side, to_tensor, to_uint8

LIMITS = Limits()


def photo(width: int = 48, height: int = 32, seed: int = 0) -> Image.Image:
    """Smooth, so that lossy formats keep it; no symmetry, so that every turn shows."""
    y, x = np.mgrid[0:height, 0:width].astype(np.float64)
    waves = [127 + 120 * np.sin(x / width * a + y / height * b + seed) for a, b in ((3, 1), (1, 4), (5, 2))]
    return Image.fromarray(np.stack(waves, axis=-1).round().astype(np.uint8))


def file_of(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    out = BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def decoded(data: bytes, limits: Limits = LIMITS) -> Picture:
    picture = decode_image(data, "images[0]", limits)
    assert picture.image.mode == "RGB"
    assert all(note.startswith("images[0]: ") for note in picture.notes)
    return picture


def pixels(data: bytes) -> NDArray[np.int64]:
    return np.asarray(decoded(data).image).astype(np.int64)


def refused(data: bytes, kind: type[DarkroomError], limits: Limits = LIMITS) -> str:
    with pytest.raises(kind) as failure:
        decode_image(data, "images[0]", limits)
    assert type(failure.value) is kind
    assert failure.value.field == "images[0]"
    assert failure.value.message.startswith("images[0] ")
    return failure.value.message


def chunk(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def png(
    samples: NDArray[np.uint8] | NDArray[np.uint16],
    colour_type: int,
    *extra: bytes,
    size: tuple[int, int] | None = None,
) -> bytes:
    """A PNG of [H, W, C] samples, written by hand: no library writes every kind."""
    height, width = samples.shape[:2]
    depth = samples.dtype.itemsize * 8
    lines = samples.astype(samples.dtype.newbyteorder(">")).reshape(height, -1)
    body = b"".join(b"\x00" + line.tobytes() for line in lines)
    header = struct.pack(">IIBBBBB", *(size or (width, height)), depth, colour_type, 0, 0, 0)
    chunks = [chunk(b"IHDR", header), *extra, chunk(b"IDAT", zlib.compress(body)), chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


# -- colours ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "options"), [
    ("PNG", {}), ("BMP", {}), ("TIFF", {}), ("TIFF", {"compression": "tiff_lzw"}), ("WEBP", {"lossless": True}),
])  # fmt: skip
def test_lossless_files_keep_every_pixel(kind: str, options: dict[str, Any]) -> None:
    picture = decoded(file_of(photo(), kind, **options))
    assert picture.image.tobytes() == photo().tobytes()
    assert picture.notes == ()


@pytest.mark.parametrize(("kind", "options"), [("JPEG", {"quality": 95}), ("WEBP", {"quality": 95})])
def test_lossy_files_stay_near(kind: str, options: dict[str, Any]) -> None:
    difference = pixels(file_of(photo(), kind, **options)) - np.asarray(photo()).astype(np.int64)
    assert np.abs(difference).mean() < 3


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBA"])
@pytest.mark.parametrize("kind", ["PNG", "TIFF", "GIF"])
def test_every_mode_becomes_the_rgb_that_pillow_shows(mode: str, kind: str) -> None:
    image = photo().convert(mode)
    expected = Image.open(BytesIO(file_of(image, kind))).convert("RGB")
    assert pixels(file_of(image, kind)).tolist() == np.asarray(expected).tolist()


def test_a_still_gif_is_a_picture() -> None:
    image = photo().convert("P", palette=Image.Palette.ADAPTIVE)
    assert decoded(file_of(image, "GIF")).image.tobytes() == image.convert("RGB").tobytes()


SIXTEEN = np.array([0, 1, 128, 129, 255, 256, 257, 385, 386, 32767, 32768, 65279, 65406, 65407, 65534, 65535])


@pytest.mark.parametrize(("colour_type", "channels"), [(0, 1), (2, 3)])
def test_sixteen_bits_are_rounded_and_not_cut_off(colour_type: int, channels: int) -> None:
    rng = np.random.default_rng(0)
    samples = rng.integers(0, 65536, (16, 16, channels)).astype(np.uint16)
    samples[0, :, 0] = SIXTEEN
    expected = np.broadcast_to(np.round(samples / 257), (16, 16, 3)).astype(np.int64)
    assert pixels(png(samples, colour_type)).tolist() == expected.tolist()


def test_sixteen_bit_tiff_is_rounded_too() -> None:
    samples = np.random.default_rng(1).integers(0, 65536, (16, 20)).astype(np.uint16)
    expected = np.repeat(np.round(samples / 257)[..., None], 3, axis=-1).astype(np.int64)
    assert pixels(file_of(Image.fromarray(samples), "TIFF")).tolist() == expected.tolist()


@pytest.mark.parametrize(("colour_type", "channels"), [(4, 2), (6, 4)])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_alpha_is_laid_on_white_at_any_depth(colour_type: int, channels: int, dtype: type[Any]) -> None:
    samples = np.random.default_rng(2).integers(0, np.iinfo(dtype).max, (16, 16, channels)).astype(dtype)
    picture = decoded(png(samples, colour_type))
    unit = samples / np.iinfo(dtype).max
    on_white = unit[..., :-1] * unit[..., -1:] + (1 - unit[..., -1:])
    assert np.abs(np.asarray(picture.image) - 255 * on_white).max() <= 1.5  # three roundings
    assert picture.notes == ("images[0]: its transparent parts were laid on white",)


def test_alpha_that_hides_nothing_needs_no_note() -> None:
    picture = decoded(file_of(photo().convert("RGBA")))
    assert (picture.image.tobytes(), picture.notes) == (photo().tobytes(), ())


@pytest.mark.parametrize(("dtype", "colour_type", "clear"), [
    (np.uint8, 0, (7,)), (np.uint8, 2, (7, 8, 9)), (np.uint16, 0, (1799,)), (np.uint16, 2, (1799, 2056, 2313)),
])  # fmt: skip
def test_one_clear_colour_becomes_white_and_its_neighbours_stay(
    dtype: type[Any], colour_type: int, clear: tuple[int, ...]
) -> None:
    samples = np.empty((16, 16, len(clear)), dtype)
    samples[:] = clear
    samples[0, 0, 0] += 1
    result = pixels(png(samples, colour_type, chunk(b"tRNS", struct.pack(f">{len(clear)}H", *clear))))
    assert (result[1:] == 255).all()
    assert (result[0, 0] < 20).all()


def test_cmyk_without_a_profile_is_converted_and_said() -> None:
    cmyk = photo().convert("CMYK")
    picture = decoded(file_of(cmyk, "TIFF"))
    assert picture.image.tobytes() == cmyk.convert("RGB").tobytes()
    assert "CMYK" in picture.notes[0]
    jpeg = decoded(file_of(cmyk, "JPEG", quality=95))
    assert np.abs(np.asarray(jpeg.image).astype(int) - np.asarray(photo()).astype(int)).mean() < 6


def linear_profile() -> bytes:
    """An RGB profile whose values are proportional to light: sRGB with its three curves replaced by a gamma of 1."""
    data = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    tags = {data[at:at + 4]: struct.unpack(">II", data[at + 4:at + 12])
            for at in range(132, 132 + 12 * struct.unpack(">I", data[128:132])[0], 12)}  # fmt: skip
    changed = bytearray(data)
    for name in (b"rTRC", b"gTRC", b"bTRC"):
        at, length = tags[name]
        changed[at:at + length] = (b"curv" + bytes(4) + struct.pack(">I", 0)).ljust(length, b"\x00")  # fmt: skip
    at, length = tags[b"desc"]
    changed[at:at + length] = bytes(changed[at:at + length]).replace("sRGB".encode("utf-16-be"),
                                                                     "line".encode("utf-16-be"))  # fmt: skip
    return bytes(changed)


@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
def test_a_colour_profile_is_applied(mode: str) -> None:
    light = np.linspace(0, 1, 256).reshape(16, 16)
    grey = Image.fromarray((light * 255).round().astype(np.uint8)).convert(mode)
    srgb = np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)
    picture = decoded(file_of(grey, icc_profile=linear_profile()))
    assert np.abs(np.asarray(picture.image)[..., 0] - 255 * srgb).max() <= 2
    assert picture.notes == ()


def test_an_srgb_profile_changes_no_pixel() -> None:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    assert decoded(file_of(photo(), icc_profile=profile)).image.tobytes() == photo().tobytes()


@pytest.mark.parametrize(
    ("mode", "profile"), [("RGB", b"no profile at all"), ("CMYK", linear_profile()), ("L", linear_profile())]
)
def test_a_profile_that_does_not_fit_is_ignored_and_said(mode: str, profile: bytes) -> None:
    image = photo().convert(mode)
    picture = decoded(file_of(image, "TIFF", icc_profile=profile))
    assert picture.image.tobytes() == image.convert("RGB").tobytes()
    assert "profile" in picture.notes[0]


# -- orientation --------------------------------------------------------------------------------


def lying(orientation: int) -> tuple[Image.Image, Image.Exif]:
    """The photo as a camera would store it that was held so, and the tag that says how."""
    undo = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}
    turn = undo.get(orientation)
    exif = Image.Exif()
    exif[0x0112] = orientation
    return photo() if turn is None else photo().transpose(Image.Transpose(turn)), exif


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP", "JPEG"])
def test_every_orientation_comes_out_upright(orientation: int, kind: str) -> None:
    image, exif = lying(orientation)
    options = {"WEBP": {"lossless": True}, "JPEG": {"quality": 98, "subsampling": 0}}.get(kind, {})
    result = pixels(file_of(image, kind, exif=exif, **options))
    assert result.shape == (32, 48, 3)
    assert np.abs(result - np.asarray(photo()).astype(int)).max() <= (12 if kind == "JPEG" else 0)


def test_sixteen_bit_colour_is_turned_once() -> None:
    samples = np.zeros((16, 24, 3), np.uint16)
    samples[0, 0] = 65535
    exif = Image.Exif()
    exif[0x0112] = 6
    result = pixels(png(samples, 2, chunk(b"eXIf", exif.tobytes()[6:])))
    assert result.shape == (24, 16, 3)
    assert result[0, 15].tolist() == [255, 255, 255]


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data", "ignore:Possibly corrupt EXIF data")
def test_damaged_exif_does_not_spoil_the_picture() -> None:
    result = decoded(file_of(photo(), "PNG", exif=b"Exif\x00\x00MM\x00\x2a\xff\xff\xff\xff"))
    assert result.image.tobytes() == photo().tobytes()


# -- refusals -----------------------------------------------------------------------------------


def moving(kind: str) -> bytes:
    return file_of(photo(), kind, save_all=True, append_images=[photo(seed=1)])


@pytest.mark.parametrize(
    ("kind", "said"),
    [("GIF", "animated GIF"), ("WEBP", "animated WEBP"), ("PNG", "animated PNG"), ("TIFF", "several pages")],
)
def test_what_moves_is_refused_by_name(kind: str, said: str) -> None:
    assert said in refused(moving(kind), DecodeFailed)


def test_a_photo_with_a_second_picture_inside_is_a_photo() -> None:
    picture = decoded(file_of(photo(), "MPO", save_all=True, append_images=[photo(seed=1)], quality=95))
    assert np.abs(np.asarray(picture.image).astype(int) - np.asarray(photo()).astype(int)).mean() < 3
    assert "first was taken" in picture.notes[0]


@pytest.mark.parametrize(("data", "said"), [
    (b"", "empty"),
    (b"just some text", "is text"),
    ("Grüße\n".encode() * 2000, "is text"),
    (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "SVG"),
    (b"\xef\xbb\xbf<?xml version='1.0'?>\n<!-- a drawing -->\n<svg width='9'></svg>", "SVG"),
    (b"<!DOCTYPE html><html><body>404</body></html>", "web page"),
    (b"%PDF-1.7 ...", "PDF"),
    (b"PK\x03\x04" + bytes(30), "ZIP"),
    (b"\x00\x00\x00\x18ftypheic" + bytes(30), "HEIC"),
    (b"\x00\x00\x00\x1cftypavif" + bytes(30), "AVIF"),
    (b"\x00\x00\x00\x18ftypmp42" + bytes(30), "video"),
    (b"\x1a\x45\xdf\xa3" + bytes(30), "video"),
    (b"8BPS" + bytes(30), "Photoshop"),
    (bytes(range(256)), "known format"),
    (b"\x89PNG\r\n\x1a\n", "damaged"),
])  # fmt: skip
def test_what_is_no_picture_is_named_for_what_it_is(data: bytes, said: str) -> None:
    assert said in refused(data, DecodeFailed)


def test_other_picture_formats_are_not_opened() -> None:
    for kind in ("ICO", "PPM", "TGA", "JPEG2000", "EPS", "PCX"):
        refused(file_of(photo(), kind), DecodeFailed)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "BMP", "TIFF", "GIF"])
@pytest.mark.parametrize("kept", [0.3, 0.6, 0.9])
def test_a_truncated_file_is_refused(kind: str, kept: float) -> None:
    rng = np.random.default_rng(0)
    data = file_of(Image.fromarray(rng.integers(0, 255, (64, 64, 3), dtype=np.uint8)), kind)
    refused(data[: int(len(data) * kept)], DecodeFailed)


def test_a_small_file_that_unpacks_to_300_megabytes_is_refused_unopened(monkeypatch: pytest.MonkeyPatch) -> None:
    # One bit a pixel in the file, three bytes as RGB.
    body = zlib.compress(bytes(10_000 * (1 + 10_000 // 8)), 9)
    header = struct.pack(">IIBBBBB", 10_000, 10_000, 1, 0, 0, 0, 0)
    bomb = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", body) + chunk(b"IEND", b"")
    assert len(bomb) < 13_000

    def never(*_: object) -> None:
        raise AssertionError("the pixels were unpacked")

    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", never)
    for action in ("error", "ignore"):
        with warnings.catch_warnings():
            warnings.simplefilter(action, Image.DecompressionBombWarning)  # type: ignore[arg-type]
            refused(bomb, InputTooLarge)


@pytest.mark.parametrize("side", [60_000, 2**31 - 1])
def test_sizes_beyond_all_bounds_are_refused(side: int) -> None:
    refused(png(np.zeros((1, 1, 3), np.uint8), 2, size=(side, side)), InputTooLarge)


def test_the_limit_of_pixels_is_exact() -> None:
    data = file_of(photo(40, 25))
    assert decoded(data, Limits(max_source_pixels=1000)).image.size == (40, 25)
    assert "40 × 25" in refused(data, InputTooLarge, Limits(max_source_pixels=999))


def test_the_limit_of_bytes_is_exact() -> None:
    data = file_of(photo())
    decoded(data, Limits(max_source_bytes=len(data)))
    refused(data, InputTooLarge, Limits(max_source_bytes=len(data) - 1))


@pytest.mark.parametrize("size", [(7, 8), (8, 7), (1, 1), (8, 241), (241, 8)])
def test_specks_and_stripes_are_refused(size: tuple[int, int]) -> None:
    assert f"{size[0]} × {size[1]}" in refused(file_of(photo(*size)), InvalidInput)


@pytest.mark.parametrize("size", [(8, 8), (8, 240), (240, 8)])
def test_the_smallest_and_longest_pass(size: tuple[int, int]) -> None:
    assert decoded(file_of(photo(*size))).image.size == size


@pytest.mark.parametrize("image", [Image.new("I", (16, 16), 70_000), Image.new("F", (16, 16), 0.5)])
def test_samples_without_an_agreed_white_are_refused(image: Image.Image) -> None:
    assert "32-bit" in refused(file_of(image, "TIFF"), DecodeFailed)


def seeds() -> Iterable[bytes]:
    for mode in ("RGB", "RGBA", "L", "P", "1"):
        yield file_of(photo(16, 12).convert(mode), "PNG")
    for mode in ("RGB", "L", "CMYK"):
        yield file_of(photo(16, 12).convert(mode), "JPEG")
    yield file_of(photo(16, 12), "WEBP")
    yield file_of(photo(16, 12), "BMP")
    yield file_of(photo(16, 12).convert("P"), "GIF")
    yield file_of(lying(6)[0], "JPEG", exif=lying(6)[1])
    yield png(np.full((9, 9, 3), 999, np.uint16), 2)


SEEDS = list(seeds())


@pytest.mark.filterwarnings("ignore")  # Pillow's warnings on damaged files are no errors in a worker
@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_any_bytes_are_a_picture_or_a_bad_job(data: st.DataObject) -> None:
    damaged = bytearray(data.draw(st.sampled_from(SEEDS)))
    for _ in range(data.draw(st.integers(1, 6))):
        at = data.draw(st.integers(0, len(damaged) - 1))
        damaged[at] = data.draw(st.integers(0, 255))
    del damaged[data.draw(st.integers(1, len(damaged))) :]
    try:
        picture = decode_image(bytes(damaged), "images[0]", Limits(max_source_pixels=100_000))
    except BadJob as error:
        named = error.field
    else:
        named = "images[0]" if picture.image.mode == "RGB" else picture.image.mode
    assert named == "images[0]"


@pytest.mark.filterwarnings("ignore")
def test_a_palette_picture_without_a_palette_is_damaged() -> None:
    refused(png(np.zeros((9, 9, 1), np.uint8), 3), DecodeFailed)


# -- encoding -----------------------------------------------------------------------------------

FORMATS: list[media.OutputFormat] = ["png", "webp", "jpeg"]


@pytest.mark.parametrize("output_format", FORMATS)
def test_the_same_pixels_give_the_same_bytes_without_metadata(output_format: media.OutputFormat) -> None:
    plain, media_type = encode_image(photo(), output_format)
    laden = photo()
    laden.info = {"icc_profile": linear_profile(), "comment": b"secret", "dpi": (72, 72), "exif": b"Exif\x00\x00secret"}
    assert encode_image(laden, output_format) == (plain, media_type) == encode_image(photo(), output_format)
    assert media_type == f"image/{output_format}"
    assert laden.info["comment"] == b"secret"
    again = Image.open(BytesIO(plain))
    assert Image.MIME[str(again.format)] == media_type
    assert not {"icc_profile", "comment", "exif", "dpi"} & set(again.info)
    assert not dict(again.getexif())


def test_png_is_lossless() -> None:
    assert Image.open(BytesIO(encode_image(photo(), "png", 1)[0])).tobytes() == photo().tobytes()


@pytest.mark.parametrize("output_format", ["webp", "jpeg"])
def test_more_quality_is_more_bytes_and_less_error(output_format: media.OutputFormat) -> None:
    files = [encode_image(photo(96, 64), output_format, quality)[0] for quality in (10, 60, 95)]
    errors = [np.abs(pixels(data) - np.asarray(photo(96, 64)).astype(int)).mean() for data in files]
    assert sorted(map(len, files)) == list(map(len, files))
    assert sorted(errors, reverse=True) == errors


def test_only_opaque_pictures_are_encoded() -> None:
    with pytest.raises(ValueError, match="RGBA"):
        encode_image(photo().convert("RGBA"), "jpeg")


# -- tensors ------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_tensors_become_the_pixels_that_diffusers_makes(dtype: torch.dtype) -> None:
    ramp = torch.linspace(-1.3, 1.3, 3 * 64 * 64).reshape(3, 64, 64)
    halves = (torch.arange(3 * 16 * 16).reshape(3, 16, 16) % 256 + 0.5) / 255 * 2 - 1
    for tensor in (ramp.to(dtype), halves.to(dtype), torch.randn(3, 40, 24, generator=torch.manual_seed(0)).to(dtype)):
        theirs = VaeImageProcessor().postprocess(tensor[None], output_type="pil")[0]
        assert to_uint8(tensor).tobytes() == theirs.tobytes()


def test_pixels_become_the_tensor_that_diffusers_makes() -> None:
    theirs = VaeImageProcessor(vae_scale_factor=8).preprocess(photo())[0]
    assert torch.equal(to_tensor(photo()), theirs)


def test_pixels_survive_the_way_through_tensors() -> None:
    every = Image.fromarray(np.arange(256 * 3, dtype=np.int64).reshape(16, 16, 3).astype(np.uint8))
    assert to_uint8(to_tensor(every)).tobytes() == every.tobytes()


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_what_is_no_number_never_passes_for_black(value: float) -> None:
    tensor = torch.zeros(3, 8, 8)
    tensor[1, 2, 3] = value
    with pytest.raises(Internal):
        to_uint8(tensor)


# -- pictures for people ------------------------------------------------------------------------


def holds(sheet: Image.Image, picture: Image.Image) -> list[tuple[int, int]]:
    """Where in the sheet the picture lies, pixel for pixel."""
    whole, part = np.asarray(sheet), np.asarray(picture)
    height, width = part.shape[:2]
    candidates = np.argwhere((whole[: whole.shape[0] - height + 1, : whole.shape[1] - width + 1] == part[0, 0]).all(-1))
    return [(int(x), int(y)) for y, x in candidates if (whole[y : y + height, x : x + width] == part).all()]


def test_a_grid_holds_every_picture_once_and_whole_in_its_place() -> None:
    rows = [[photo(seed=10 * y + x) for x in range(3)] for y in range(2)]
    sheet = labelled_grid(rows, row_labels=["α = 0", "α = 1"], column_labels=["one", "two", "a very long label " * 9])
    places = [[holds(sheet, picture) for picture in row] for row in rows]
    assert all(len(found) == 1 for row in places for found in row)
    assert all(len({found[0][1] for found in row}) == 1 for row in places)
    assert all(len({row[x][0][0] for row in places}) == 1 for x in range(3))


def test_pictures_of_several_sizes_lie_in_equal_cells() -> None:
    small, large = photo(16, 16), photo(48, 32)
    sheet = labelled_grid([[small, large], [large]])
    assert len(holds(sheet, large)) == 2
    assert len(holds(sheet, small)) == 1


def test_labels_are_drawn_and_miscounts_refused() -> None:
    bare, labelled = labelled_grid([[photo()]]), labelled_grid([[photo()]], column_labels=["after"])
    assert labelled.height > bare.height
    assert np.asarray(labelled).min() < 128
    for labels in ({"row_labels": ["a", "b"]}, {"column_labels": ["a", "b"]}):
        with pytest.raises(ValueError, match="labels"):
            labelled_grid([[photo()]], **labels)  # type: ignore[arg-type]


def test_labels_may_be_greek_and_mathematical() -> None:
    drawn = {sign: labelled_grid([[photo()]], row_labels=[sign]).tobytes() for sign in "αβ−×…\U0010ffff"}
    assert len(set(drawn.values())) == len(drawn)


def test_an_empty_grid_is_white_paper() -> None:
    assert labelled_grid([]).getextrema() == ((255, 255),) * 3


def test_before_and_after_stand_at_one_height() -> None:
    before, after = photo(96, 64), photo(48, 32, seed=5)
    sheet = side_by_side(before, after)
    assert len(holds(sheet, after)) == 1
    assert len(holds(sheet, before.resize((48, 32), Image.Resampling.LANCZOS))) == 1
