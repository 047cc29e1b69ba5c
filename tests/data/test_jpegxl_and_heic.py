"""read_image of JPEG XL and HEIC, and the header of a JPEG XL file."""

from __future__ import annotations

import io
import struct
import sys

import imagecodecs
import numpy as np
import PIL.Image
import pytest

from fastiqa.data.images import jpegxl
from support.colour_profiles import (
    P3,
    p3_in_srgb,
    rgb_profile,
)
from support.image_files import (
    GREY16,
    RGB8,
    RGB16,
    SMOOTH,
    Reader,
)

DISPLAY_P3 = rgb_profile("Display P3", P3)
FRAMES = [RGB8, np.roll(RGB8, 3, 0), 255 - RGB8]
DEEP10 = RGB16 >> 6


@pytest.fixture
def read(tmp_path):
    return Reader(tmp_path)


# ---- JPEG XL ----


LINEAR = "colours in white point D65, primaries sRGB, curve linear"


@pytest.mark.parametrize("codes", [RGB8, RGB8[:24, :32].copy(), RGB8[:20, :30].copy(), RGB8[:20, :20].copy()])
@pytest.mark.parametrize("container", [False, True])
def test_jpeg_xl(read, codes, container):
    data = imagecodecs.jpegxl_encode(codes, lossless=True, usecontainer=container)
    image = read(data)
    assert np.array_equal(image.pixels, codes)
    assert (image.bit_depth, image.notes) == (8, ())
    about = jpegxl.jpegxl_header(data)
    assert (about.height, about.width) == codes.shape[:2]


@pytest.mark.parametrize(
    ("codes", "options", "depth"), [(RGB16, {}, 16), (GREY16, {}, 16), (DEEP10, {"bitspersample": 10}, 10)]
)
def test_deep_jpeg_xl(read, codes, options, depth):
    """imagecodecs says of more than 8 bits that they are linear, and no library here converts them."""
    data = imagecodecs.jpegxl_encode(codes, lossless=True, **options)
    image = read(data, colour="ignore")
    assert np.array_equal(image.pixels, codes if codes.ndim == 3 else np.stack([codes] * 3, 2))
    assert image.bit_depth == depth
    assert image.notes[-1] == f"{LINEAR} read as sRGB"
    for colour in ("convert", "refuse"):
        assert read.refusal(data, colour=colour).startswith(f"{LINEAR}, want sRGB or an ICC profile (--colour ignore")


def test_lossy_jpeg_xl(read):
    image = read(imagecodecs.jpegxl_encode(SMOOTH, distance=1.0))
    assert np.abs(image.pixels.astype(int) - SMOOTH).mean() < 3
    assert image.notes == ()


def test_the_first_frame_of_a_jpeg_xl_animation(read):
    image = read(imagecodecs.jpegxl_encode(np.stack(FRAMES), lossless=True))
    assert np.array_equal(image.pixels, RGB8)
    assert image.notes == ("frame 1 of an animation",)


def test_jpeg_xl_of_floats_or_of_too_many_pixels(read, monkeypatch):
    floats = imagecodecs.jpegxl_encode((RGB8 / 255).astype(np.float32), lossless=True)
    assert read.refusal(floats) == "a JPEG XL file of floating-point samples, want integers of up to 16 bits"
    monkeypatch.setattr(PIL.Image, "MAX_IMAGE_PIXELS", 1000)
    assert read.refusal(imagecodecs.jpegxl_encode(RGB8, lossless=True)).startswith(
        "the image has more than 1000 pixels"
    )


def test_jpeg_xl_needs_imagecodecs(read, monkeypatch):
    data = imagecodecs.jpegxl_encode(RGB8, lossless=True)
    monkeypatch.setitem(sys.modules, "imagecodecs", None)
    assert read.refusal(data) == "JPEG XL needs imagecodecs: pip install 'fastiqa-kernels[cli]'"


class Writer:
    """Writes bits, the lowest of a byte first."""

    def __init__(self):
        self.value = self.count = 0

    def put(self, *pairs):
        for value, bits in pairs:
            self.value |= value << self.count
            self.count += bits
        return self

    def data(self):
        return jpegxl.CODESTREAM + self.value.to_bytes(-(-self.count // 8), "little")


@pytest.mark.parametrize(
    ("colour", "words"),
    [
        ([(1, 1)], ""),
        ([(0, 1), (1, 1)], "an ICC profile"),
        # RGB; D65; P3: offset 2 + 9; sRGB: offset 2 + 11
        (
            [(0, 2), (0, 2), (1, 2), (2, 2), (9, 4), (0, 1), (2, 2), (11, 4)],
            "white point D65, primaries P3, curve sRGB",
        ),
        ([(0, 2), (0, 2), (1, 2), (1, 2), (0, 1), (2, 2), (11, 4)], ""),
        (
            [(0, 2), (0, 2), (1, 2), (2, 2), (7, 4), (0, 1), (2, 2), (14, 4)],
            "white point D65, primaries BT.2100, curve PQ",
        ),
        ([(0, 2), (1, 2), (1, 2), (0, 1), (2, 2), (11, 4)], ""),
        ([(0, 2), (0, 2), (1, 2), (1, 2), (1, 1), (4545455, 24)], "white point D65, primaries sRGB, curve gamma"),
    ],
)
def test_colours_of_a_jpeg_xl_header(colour, words):
    """Written bit by bit from the standard: encoders here know sRGB alone."""
    writer = Writer().put((1, 1), (3, 5), (1, 3), (0, 1), (0, 1), (0, 1), (0, 2), (1, 1), (0, 2), (0, 1))
    if words != "an ICC profile" and len(colour) > 1:
        writer.put((0, 1))
        colour = colour if colour[0] != (0, 2) else [(0, 1), *colour[1:]]
    writer.put(*colour)
    about = jpegxl.jpegxl_header(writer.data() + bytes(4))
    assert (about.width, about.height, about.bit_depth, about.colour) == (32, 32, 8, words)


# ---- HEIC ----


def heic(codes, **options):
    library = pytest.importorskip("pillow_heif", reason="pillow-heif brings x265 (GPL) and is no part of an extra")
    stream = io.BytesIO()
    library.from_pillow(PIL.Image.fromarray(codes)).save(stream, quality=-1, chroma=444, **options)
    return stream.getvalue()


def test_heic(read):
    image = read(heic(SMOOTH))
    assert np.abs(image.pixels.astype(int) - SMOOTH).max() <= 2
    assert (image.bit_depth, image.notes) == (8, ())
    shown = read(heic(np.dstack([SMOOTH, SMOOTH[..., :1]])), background="black")
    assert np.abs(shown.pixels - SMOOTH.astype(float) ** 2 / 255).max() <= 4
    assert shown.notes == ("alpha on black",)


def test_a_profile_of_a_heic(read):
    pytest.importorskip("pillow_heif", reason="pillow-heif brings x265 (GPL) and is no part of an extra")
    image = PIL.Image.fromarray(SMOOTH)
    image.info["icc_profile"] = DISPLAY_P3
    stream = io.BytesIO()
    __import__("pillow_heif").from_pillow(image).save(stream, quality=-1, chroma=444)
    kept = read(stream.getvalue(), colour="ignore")
    assert kept.notes == ("ICC 'Display P3' ignored",)
    converted = read(stream.getvalue())
    assert np.abs(converted.pixels - 255 * p3_in_srgb(kept.pixels / 255)).max() < 0.6


def test_the_primary_image_of_a_heic(read):
    library = pytest.importorskip("pillow_heif", reason="pillow-heif brings x265 (GPL) and is no part of an extra")
    stream, file = io.BytesIO(), library.from_pillow(PIL.Image.fromarray(255 - SMOOTH))
    file.add_from_pillow(PIL.Image.fromarray(SMOOTH))
    file.save(stream, quality=-1, chroma=444, primary_index=1)
    image = read(stream.getvalue())
    assert np.abs(image.pixels.astype(int) - SMOOTH).max() <= 2
    assert image.notes == ("image 2 of 2, the primary one",)


def test_an_upright_heic(read):
    exif = PIL.Image.Exif()
    exif[0x0112] = 6
    image = read(heic(SMOOTH, exif=exif.tobytes()))
    assert np.abs(image.pixels.astype(int) - np.rot90(SMOOTH, -1)).max() <= 2


def test_heic_of_ten_bits(read):
    library = pytest.importorskip("pillow_heif", reason="pillow-heif brings x265 (GPL) and is no part of an extra")
    codes = SMOOTH.astype(np.uint16) * 4
    stream = io.BytesIO()
    library.from_bytes("RGB;16", (80, 64), (codes << 6).tobytes()).save(stream, quality=-1, chroma=444)
    image = read(stream.getvalue())
    assert image.bit_depth == 10
    assert np.abs(image.pixels.astype(int) - codes).max() <= 2


def test_heic_without_its_package_is_named(read, monkeypatch):
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    data = struct.pack(">I", 24) + b"ftypheic" + bytes(4) + b"mif1heic" + bytes(40)
    assert read.refusal(data) == "HEIC needs pillow_heif: pip install pillow-heif"
    assert read.refusal(data, strict=True).startswith("not an image in a format that is read (PNG, ")
