"""Video and archives, in and out."""

from __future__ import annotations

import io
import subprocess
import sys
import zipfile
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from darkroom.errors import BadJob, DecodeFailed, InputTooLarge, InvalidInput
from darkroom.jobs import Limits
from darkroom.media import Video, ZipPictures, edge_map, encode_image, write_mp4
from darkroom.media.archive import natural
from darkroom.media.charts import Panel, line_charts

LIMITS = Limits()


def blocks(shift: int, size: tuple[int, int] = (192, 128)) -> Image.Image:
    cells = np.random.default_rng(0).integers(0, 255, (size[1] // 16, size[0] // 16, 3))
    pixels = np.kron(cells, np.ones((16, 16, 1))).astype(np.uint8)
    return Image.fromarray(np.roll(pixels, 16 * shift, axis=1))


def clip(path: Path, count: int = 12) -> Path:
    write_mp4(path, (blocks(number) for number in range(count)), Fraction(25, 2))
    return path


# -- video --------------------------------------------------------------------------------------


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    video = Video(clip(tmp_path / "a.mp4"), "source_video", LIMITS, 100)
    assert (video.num_frames, video.fps, video.size) == (12, Fraction(25, 2), (192, 128))
    found = list(video.frames(9))
    assert len(found) == 3
    error = np.abs(np.asarray(found[0]).astype(int) - np.asarray(blocks(9)))
    assert error.mean() < 4  # of 255; BT.709 there and back, half the colour resolution


def test_the_same_frames_give_the_same_bytes_in_every_process(tmp_path: Path) -> None:
    here = clip(tmp_path / "a.mp4", 20).read_bytes()
    assert clip(tmp_path / "b.mp4", 20).read_bytes() == here
    code = "import sys; from pathlib import Path; from tests.test_video import clip; clip(Path(sys.argv[1]), 20)"
    root = Path(__file__).parents[1]
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "c.mp4")], check=True, cwd=root)
    assert (tmp_path / "c.mp4").read_bytes() == here
    assert b"Lavf" not in here


def test_counting_stops_where_more_would_be_too_many(tmp_path: Path) -> None:
    assert Video(clip(tmp_path / "a.mp4"), "edges", LIMITS, 5).num_frames == 6


def test_a_trimmed_video_has_the_frames_that_it_shows(tmp_path: Path) -> None:
    """Trimmed without encoding anew, as phones do: an edit list hides frames that the others need."""
    import av

    hidden, place = 4, tmp_path / "b.mp4"
    with av.open(str(clip(tmp_path / "a.mp4"))) as whole, av.open(str(place), "w") as trimmed:
        source = whole.streams.video[0]
        stream = trimmed.add_stream_from_template(source)
        assert source.time_base is not None
        later = round(hidden / Fraction(25, 2) / source.time_base)
        for packet in whole.demux(source):
            if packet.pts is not None and packet.dts is not None:
                packet.pts, packet.dts, packet.stream = packet.pts - later, packet.dts - later, stream
                trimmed.mux(packet)
    video = Video(place, "source_video", LIMITS, 100)
    found = list(video.frames())
    assert video.num_frames == len(found) == 12 - hidden
    assert np.abs(np.asarray(found[0]).astype(int) - np.asarray(blocks(hidden))).mean() < 4
    assert Video(place, "source_video", LIMITS, 8).num_frames == 8


def test_a_turned_video_is_set_upright(tmp_path: Path) -> None:
    import av

    plain = clip(tmp_path / "a.mp4", 2)
    data = bytearray(plain.read_bytes())
    # The track's display matrix, of a quarter turn: what phones write for upright recordings.
    at = data.index(b"tkhd") + 4 + 40
    quarter = [0, 1 << 16, 0, -(1 << 16), 0, 0, 0, 0, 1 << 30]
    data[at : at + 36] = b"".join(value.to_bytes(4, "big", signed=True) for value in quarter)
    (tmp_path / "b.mp4").write_bytes(data)
    with av.open(str(tmp_path / "b.mp4")) as container:
        assert next(container.decode(video=0)).rotation != 0
    upright = next(Video(tmp_path / "b.mp4", "source_video", LIMITS, 10).frames())
    assert upright.size == (128, 192)
    turned = np.rot90(np.asarray(blocks(0)), -1).astype(int)
    assert np.abs(np.asarray(upright).astype(int) - turned).mean() < 4


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "no video of a known kind"),
        (b"#EXTM3U\n#EXTINF:1,\nfile:///etc/passwd\n", "no video of a known kind"),
        (b"ffconcat version 1.0\nfile /etc/passwd\n", "no video of a known kind"),
        (b"\x00\x00\x00\x18ftypmp42" + bytes(100), "damaged or incomplete"),
        (b"RIFF\x00\x00\x00\x00AVI LIST", "damaged or incomplete"),
    ],
)
def test_what_is_no_video_is_refused_and_never_opened_as_a_playlist(tmp_path: Path, data: bytes, words: str) -> None:
    (tmp_path / "x").write_bytes(data)
    with pytest.raises(DecodeFailed, match=words):
        Video(tmp_path / "x", "source_video", LIMITS, 10)


def test_a_video_cut_off_is_refused_before_any_work(tmp_path: Path) -> None:
    data = clip(tmp_path / "a.mp4").read_bytes()
    (tmp_path / "b.mp4").write_bytes(data[: len(data) * 2 // 3])
    with pytest.raises(DecodeFailed, match="damaged or incomplete"):
        Video(tmp_path / "b.mp4", "source_video", LIMITS, 100)


def test_a_video_of_too_many_pixels_is_refused_by_its_header(tmp_path: Path) -> None:
    with pytest.raises(InputTooLarge, match="192 × 128 pixels"):
        Video(clip(tmp_path / "a.mp4", 2), "source_video", Limits(max_source_pixels=10_000), 10)


def test_a_video_needs_a_frame(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="at least one frame"):
        write_mp4(tmp_path / "a.mp4", [], Fraction(8))


# -- zip ----------------------------------------------------------------------------------------


def png(shift: int = 0) -> bytes:
    return encode_image(blocks(shift, (32, 32)), "png")[0]


def archive(path: Path, files: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", method) as writer:
        for name, data in files.items():
            writer.writestr(name, data)
    return path


def test_pictures_come_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    names = ["f/frame_10.png", "f/frame_2.png", "f/frame_1.png"]
    pictures = ZipPictures(archive(tmp_path / "a.zip", {name: png(i) for i, name in enumerate(names)}), "edges", LIMITS)
    assert [pictures.read(i) for i in range(len(pictures))] == [png(2), png(1), png(0)]
    assert pictures.name(0) == "edges[f/frame_1.png]"


def test_names_that_climb_are_labels_and_nothing_else(tmp_path: Path) -> None:
    place = archive(tmp_path / "a.zip", {"../../evil.png": png(), "/etc/x.png": png(1), "C:\\y.png": png(2)})
    pictures = ZipPictures(place, "edges", LIMITS)
    assert len(pictures) == 3
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["a.zip"]


def test_other_files_are_named_and_hidden_ones_pass(tmp_path: Path) -> None:
    files = {"a.png": png(), ".DS_Store": b"x", "__MACOSX/._a.png": b"x", "readme.txt": b"x", "more.zip": b"x"}
    pictures = ZipPictures(archive(tmp_path / "a.zip", files), "edges", LIMITS)
    assert pictures.notes() == ["edges: left out, as no pictures: readme.txt, more.zip"]
    with pytest.raises(InvalidInput, match=r"edges is a zip without pictures: readme.txt"):
        ZipPictures(archive(tmp_path / "b.zip", {"readme.txt": b"x"}), "edges", LIMITS)


def test_a_bomb_is_refused_before_it_goes_off(tmp_path: Path) -> None:
    bomb = archive(tmp_path / "a.zip", {"a.png": bytes(30 * 2**20)})
    with pytest.raises(InputTooLarge, match="times its size"):
        ZipPictures(bomb, "edges", LIMITS).read(0)
    with pytest.raises(InputTooLarge, match="the limit is 1000"):
        ZipPictures(bomb, "edges", Limits(max_source_bytes=1_000)).read(0)


def test_a_size_that_lies_is_not_believed(tmp_path: Path) -> None:
    place = archive(tmp_path / "a.zip", {"a.png": np.random.default_rng(0).bytes(5_000)}, zipfile.ZIP_STORED)
    data = bytearray(place.read_bytes())
    for signature, offset in ((b"PK\x03\x04", 22), (b"PK\x01\x02", 24)):
        at = data.index(signature) + offset
        data[at : at + 4] = (10).to_bytes(4, "little")
    place.write_bytes(data)
    with pytest.raises(BadJob):
        assert len(ZipPictures(place, "edges", Limits(max_source_bytes=1_000)).read(0)) > 10


@pytest.mark.parametrize("data", [b"", b"PK\x03\x04", b"PK\x03\x04" + bytes(100), b"hello"])
def test_a_damaged_zip_is_a_sentence(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "a.zip").write_bytes(data)
    with pytest.raises(DecodeFailed, match="edges is a damaged or incomplete zip"):
        ZipPictures(tmp_path / "a.zip", "edges", LIMITS)


def test_a_damaged_member_is_named(tmp_path: Path) -> None:
    place = archive(tmp_path / "a.zip", {"a.png": png(), "b.png": png(1)})
    data = bytearray(place.read_bytes())
    data[60:80] = bytes(20)
    place.write_bytes(data)
    with pytest.raises(DecodeFailed, match=r"edges\[a.png\] is damaged in the zip"):
        ZipPictures(place, "edges", LIMITS).read(0)


def test_numbers_sort_as_numbers() -> None:
    names = ["b1", "a10", "a2", "a02b", "A1", "²"]
    assert sorted(names, key=natural)[:3] == ["A1", "a2", "a02b"]


# -- edges and charts ---------------------------------------------------------------------------


def test_an_edge_map_is_the_pocket_worlds() -> None:
    """Weights are trained on the one and users' videos go through the other."""
    from darkroom.pocket.world.edges import edge_map as trained_on

    picture = blocks(0)
    there = (trained_on(np.asarray(picture).astype(np.float32) / 255) * 255).astype(np.uint8)
    assert np.array_equal(np.asarray(edge_map(picture)), there)


def test_charts_are_a_picture() -> None:
    data = line_charts([Panel("loss", "frame", {"loss": ([1, 2], [0.5, 0.4])}), Panel("b", "step", {"x": ([0], [1])})])
    with Image.open(io.BytesIO(data)) as image:
        assert image.format == "PNG"
        assert image.width > 500
