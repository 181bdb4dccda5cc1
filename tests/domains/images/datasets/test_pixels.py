"""Image files as pixels: each kind against its rule, and 3,000 damaged files against decoders that are not Pillow."""

import itertools
import os
import struct
import time
import zlib

import numpy as np
import pytest
from PIL import Image

from experiments.attack.damage import DECODERS, expected, mutated, originals, with_right_checksums
from jmeta.decoding import UnreadableError
from jmeta.domains.images.datasets.pixels import MAX_PIXELS, Conversion, read_picture

GREY = Conversion(num_channels=1)
RAMP = (np.arange(64) * 1000).astype(np.uint16).reshape(8, 8)
INK = np.zeros((8, 8), np.uint8)
INK[2:5, 3:7] = 255


def read(tmp_path, image, name="image.png", conversion=GREY, **options):
    image.save(tmp_path / name, **options)
    return read_picture(tmp_path / name, conversion).pixels


@pytest.mark.parametrize("name", ["ramp.png", "ramp.tif", "ramp.pgm", "ramp.jp2"])
def test_sixteen_bits_become_their_eight_highest(tmp_path, name):
    pixels = read(tmp_path, Image.fromarray(RAMP), name)
    np.testing.assert_array_equal(pixels[..., 0], RAMP >> 8)
    assert len(np.unique(pixels)) == 64


def test_sixteen_bits_big_endian_inverted_and_with_a_transparent_value(tmp_path):
    big_endian = Image.fromarray(RAMP.astype(">u2"))
    np.testing.assert_array_equal(read(tmp_path, big_endian, "a.tif")[..., 0], RAMP >> 8)
    inverted = read(tmp_path, Image.fromarray(65535 - RAMP), "b.tif", tiffinfo={262: 0})
    np.testing.assert_array_equal(inverted[..., 0], RAMP >> 8)
    seen_through = read(tmp_path, Image.fromarray(RAMP), transparency=3000)
    np.testing.assert_array_equal(seen_through[..., 0], np.where(RAMP == 3000, 255, RAMP >> 8))


def tiff(values, bits):
    """A TIFF of grey values packed as so many bits, and nothing that Pillow wrote."""
    packed = np.packbits((values[..., None] >> np.arange(bits)[::-1] & 1).astype(np.uint8).reshape(len(values), -1), 1)
    tags = [(256, values.shape[1]), (257, len(values)), (258, bits), (259, 1), (262, 1), (273, 8), (277, 1)]
    tags += [(278, len(values)), (279, packed.size)]
    directory = b"".join(struct.pack("<HHII", tag, 4 if tag in (273, 279) else 3, 1, value) for tag, value in tags)
    offset = 8 + packed.size
    return (
        struct.pack("<2sHI", b"II", 42, offset) + packed.tobytes() + struct.pack("<H", len(tags)) + directory + bytes(4)
    )


def test_twelve_bits_become_their_eight_highest(tmp_path):
    values = (np.arange(64) * 65).reshape(8, 8)
    (tmp_path / "twelve.tif").write_bytes(tiff(values, 12))
    np.testing.assert_array_equal(read_picture(tmp_path / "twelve.tif", GREY).pixels[..., 0], values >> 4)


@pytest.mark.parametrize("dtype", [np.int32, np.float32])
def test_numbers_without_a_white_are_refused_by_name(tmp_path, dtype):
    with pytest.raises(UnreadableError, match=r"x\.tif holds (32-bit|floating point).*save it with 8 or 16 bits"):
        read(tmp_path, Image.fromarray(RAMP.astype(dtype)), "x.tif")
    with pytest.raises(UnreadableError, match=r"x\.tif holds mode LAB"):
        read(tmp_path, Image.new("LAB", (2, 2)), "x.tif")


@pytest.mark.parametrize("background", [255, 0, 100])
@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
@pytest.mark.parametrize("num_channels", [1, 3])
def test_black_strokes_on_transparent_are_seen(tmp_path, mode, background, num_channels):
    image = Image.fromarray(np.dstack([np.zeros((8, 8, 3), np.uint8), INK]))
    image = image.quantize(4) if mode == "P" else image.convert(mode)
    pixels = read(tmp_path, image, conversion=Conversion(None, num_channels, "squash", background))
    assert pixels.shape == (8, 8, num_channels)
    np.testing.assert_array_equal(pixels, np.where(INK == 255, 0, background)[..., None].repeat(num_channels, -1))


def test_half_transparent_pixels_are_mixed_with_the_background(tmp_path):
    rng = np.random.default_rng(0)
    rgba = rng.integers(0, 256, (9, 9, 4), np.uint8)
    pixels = read(tmp_path, Image.fromarray(rgba), conversion=Conversion(background=40)).astype(int)
    alpha = rgba[..., 3:] / 255
    assert abs(pixels - (rgba[..., :3] * alpha + 40 * (1 - alpha))).max() <= 1


def test_a_transparent_colour_is_seen_through(tmp_path):
    rgb = np.zeros((4, 4, 3), np.uint8)
    rgb[1] = 9
    pixels = read(tmp_path, Image.fromarray(rgb), transparency=(0, 0, 0))
    np.testing.assert_array_equal(pixels[..., 0], np.array([255, 9, 255, 255])[:, None].repeat(4, 1))


UPRIGHT = np.arange(6 * 4, dtype=np.uint8).reshape(6, 4) * 10
STORED = {  # how `UPRIGHT` lies in a file that says so: the inverse of what the EXIF standard has a viewer do
    1: UPRIGHT,
    2: UPRIGHT[:, ::-1],
    3: UPRIGHT[::-1, ::-1],
    4: UPRIGHT[::-1],
    5: UPRIGHT.T,
    6: np.rot90(UPRIGHT, 1),
    7: UPRIGHT[::-1, ::-1].T,
    8: np.rot90(UPRIGHT, -1),
}


@pytest.mark.parametrize("orientation", list(STORED))
def test_images_are_turned_as_viewers_turn_them(tmp_path, orientation):
    exif = Image.Exif()
    exif[274] = orientation
    image = Image.fromarray(np.ascontiguousarray(STORED[orientation]))
    np.testing.assert_array_equal(read(tmp_path, image, exif=exif)[..., 0], UPRIGHT)
    np.testing.assert_array_equal(read(tmp_path, image, "a.tif", tiffinfo={274: orientation})[..., 0], UPRIGHT)
    jpeg = read(tmp_path, image.resize((image.width * 8, image.height * 8), 0), "a.jpg", exif=exif, quality=95)
    assert abs(jpeg[4::8, 4::8, 0].astype(int) - UPRIGHT).max() < 12


def test_a_wide_image_is_squashed_cropped_or_padded(tmp_path):
    wide, path = np.tile(np.arange(40, dtype=np.uint8) * 6, (10, 1)), tmp_path / "wide.png"
    Image.fromarray(wide).save(path)
    pictures = [read_picture(path, Conversion((10, 10), 1, fit, 7)) for fit in ("squash", "crop", "pad")]
    assert all(picture.was_reshaped for picture in pictures)
    squashed, cropped, padded = (picture.pixels[..., 0] for picture in pictures)
    np.testing.assert_array_equal(cropped, wide[:, 15:25])
    assert squashed[0, 0] < 15 < 220 < squashed[0, -1]  # both ends are there
    assert (padded[[0, 1, 2, 3, 6, 7, 8, 9]] == 7).sum() >= 70
    assert padded[4, 0] < 15 < 220 < padded[4, -1]
    assert not read_picture(path, Conversion((5, 20), 1)).was_reshaped


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"size": (0, 8)}, "size=.*two positive integers"),
        ({"size": (8,)}, "size=.*two positive integers"),
        ({"size": 8}, "size=.*two positive integers"),
        ({"size": (8, 10**9)}, "size=.*two positive integers"),
        ({"size": (8.5, 8)}, "size=.*two positive integers"),
        ({"fit": "stretch"}, "fit='stretch'; expected 'squash', 'crop' or 'pad'"),
        ({"background": 256}, "background=256"),
        ({"num_channels": 4}, "num_channels=4"),
    ],
)
def test_conversions_that_make_no_sense_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        Conversion()._replace(**change).check()


def png_of(chunks):
    parts = [struct.pack(">I", len(d)) + n + d + struct.pack(">I", zlib.crc32(n + d)) for n, d in chunks]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def test_interlaced_images_are_read(tmp_path):
    """Adam7, written here: Pillow writes none."""
    values = np.arange(11 * 13, dtype=np.uint8).reshape(11, 13)
    starts = [(0, 8, 0, 8), (0, 8, 4, 8), (4, 8, 0, 4), (0, 4, 2, 4), (2, 4, 0, 2), (0, 2, 1, 2), (1, 2, 0, 1)]
    passes = [values[y::dy, x::dx] for y, dy, x, dx in starts]
    lines = b"".join(b"\0" + row.tobytes() for each in passes for row in each)
    header = struct.pack(">IIBBBBB", 13, 11, 8, 0, 0, 0, 1)
    path = tmp_path / "interlaced.png"
    path.write_bytes(png_of([(b"IHDR", header), (b"IDAT", zlib.compress(lines)), (b"IEND", b"")]))
    np.testing.assert_array_equal(read_picture(path, GREY).pixels[..., 0], values)
    path.write_bytes(png_of([(b"IHDR", header), (b"IDAT", zlib.compress(lines[:-1])), (b"IEND", b"")]))
    with pytest.raises(UnreadableError, match="not hold as much image data"):
        read_picture(path, GREY)


def test_pixels_without_number_are_refused_before_they_are_unpacked(tmp_path):
    path = tmp_path / "huge.png"
    for side in (12_000, 20_000, 2**31 - 1):
        header = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
        path.write_bytes(png_of([(b"IHDR", header), (b"IDAT", zlib.compress(b"")), (b"IEND", b"")]))
        start = time.perf_counter()
        with pytest.raises(UnreadableError, match=rf"huge\.png .*{MAX_PIXELS}|huge\.png cannot be read as an image"):
            read_picture(path, GREY)
        assert time.perf_counter() - start < 5


@pytest.mark.parametrize("kind", ["GIF", "TIFF", "PNG", "WEBP"])
def test_other_frames_are_noticed(tmp_path, kind):
    frames = [Image.fromarray(np.full((4, 4), value, np.uint8)) for value in (10, 200)]
    for more in ([], frames[1:]):
        frames[0].save(tmp_path / "frames", kind, save_all=True, append_images=more)
        picture = read_picture(tmp_path / "frames", GREY)
        assert picture.has_more_frames == bool(more)
        assert abs(picture.pixels.astype(int) - 10).max() < 4


def test_what_is_no_file_is_said(tmp_path):
    (tmp_path / "link.png").symlink_to("nowhere.png")
    with pytest.raises(UnreadableError, match=r"link\.png is a link to nowhere\.png, which does not exist"):
        read_picture(tmp_path / "link.png", GREY)
    os.mkfifo(tmp_path / "pipe.png")
    with pytest.raises(UnreadableError, match=r"pipe\.png is a pipe and not a file"):
        read_picture(tmp_path / "pipe.png", GREY)
    (tmp_path / "page.png").write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n")
    with pytest.raises(UnreadableError, match=r"page\.png cannot be read as an image \(it begins with b'%!PS"):
        read_picture(tmp_path / "page.png", GREY)  # which Pillow would have another program execute


def test_the_decoders_agree_on_whole_files(tmp_path):
    for name, content in originals().items():
        (tmp_path / "file").write_bytes(content)
        pixels = read_picture(tmp_path / "file", Conversion()).pixels
        if name[:3] in DECODERS:
            assert abs(pixels - expected(name, content)).max() <= 1, name


def test_three_thousand_damaged_files_are_one_line_or_the_right_picture(tmp_path):
    rng, files, path = np.random.default_rng(1), originals(), tmp_path / "damaged.png"
    num_refused, num_compared = 0, 0
    for name, _ in zip(itertools.cycle(files), range(3000), strict=False):
        content = mutated(files[name], rng)
        if name.startswith("png") and rng.integers(2):
            content = with_right_checksums(content)
        path.write_bytes(content)
        start = time.perf_counter()
        try:
            pixels, said = read_picture(path, Conversion()).pixels, ""
        except UnreadableError as error:
            pixels, said = None, str(error)
        assert time.perf_counter() - start < 10
        if pixels is None:
            num_refused += 1
            assert str(path) in said
            assert "\n" not in said
            continue
        right = expected(name, content)
        if right is not None:
            num_compared += 1
            assert pixels.shape == right.shape, (name, content)
            assert abs(pixels - right).max() <= 1, (name, content)
    assert num_refused > 1000
    assert num_compared > 150
