"""read_image and colour: ICC profiles of real files, and CMYK, against formulas."""

from __future__ import annotations

import struct
import sys

import imagecodecs
import numpy as np
import PIL.Image
import PIL.ImageCms
import pytest

from fastiqa.data import read_image
from fastiqa.data.images import colour_profiles
from support.colour_profiles import (
    P3,
    SRGB,
    cmyk_profile,
    decoded,
    encoded,
    grey_profile,
    lab_in_srgb,
    p3_in_srgb,
    rgb_profile,
)
from support.image_files import (
    CODES8,
    CODES16,
    GREY8,
    GREY16,
    RGB8,
    RGB16,
    SMOOTH,
    Reader,
    jp2_with_profile,
    pillow,
    tiff,
    with_profile,
)

LIBRARY_SRGB = PIL.ImageCms.ImageCmsProfile(PIL.ImageCms.createProfile("sRGB")).tobytes()
DISPLAY_P3 = rgb_profile("Display P3", P3)
RANDOM = np.random.default_rng(1)


@pytest.fixture
def read(tmp_path):
    return Reader(tmp_path)


@pytest.mark.parametrize("depth", [8, 16])
def test_a_grey_profile(read, depth):
    codes = GREY8 if depth == 8 else GREY16
    gamma = with_profile(imagecodecs.png_encode(codes), grey_profile("Gamma 1.8", lambda values: values**1.8))
    image, white = read(gamma), 2**depth - 1
    assert image.notes == ("grey", "ICC 'Gamma 1.8' to sRGB")
    assert image.grey
    assert (
        np.abs(image.pixels[..., 1] / white - encoded((codes / white) ** 1.8)).max()
        < (0.51 if depth == 8 else 15) / white
    )
    plain = read(with_profile(imagecodecs.png_encode(codes), grey_profile("sGray", decoded)))
    assert np.array_equal(plain.pixels[..., 0], codes)
    assert plain.notes == ("grey",)


DEEP10 = RGB16 >> 6
PROFILED = {
    "png": (pillow(RGB8, "PNG", icc_profile=DISPLAY_P3), RGB8, 8),
    "png 16": (with_profile(imagecodecs.png_encode(RGB16), DISPLAY_P3), RGB16, 16),
    "webp": (pillow(RGB8, "WEBP", lossless=True, icc_profile=DISPLAY_P3), RGB8, 8),
    "tiff": (pillow(RGB8, "TIFF", icc_profile=DISPLAY_P3), RGB8, 8),
    "tiff 16": (tiff(RGB16, photometric="rgb", iccprofile=DISPLAY_P3), RGB16, 16),
    "jp2": (jp2_with_profile(RGB8, DISPLAY_P3), RGB8, 8),
    "jp2 16": (jp2_with_profile(RGB16, DISPLAY_P3), RGB16, 16),
}


@pytest.mark.parametrize("case", PROFILED)
def test_display_p3_becomes_srgb(read, case):
    """The formula of IEC 61966-2-1; at 16 bits the profile's curve of 1024 points bends by 36 of 65535."""
    data, codes, depth = PROFILED[case]
    white = 2**depth - 1
    image = read(data)
    error = np.abs(image.pixels - white * p3_in_srgb(codes / white))
    assert error.max() < (0.6 if depth == 8 else 50)
    assert image.notes == ("ICC 'Display P3' to sRGB",)
    kept = read(data, colour="ignore")
    assert np.array_equal(kept.pixels, codes)
    assert kept.notes == ("ICC 'Display P3' ignored",)
    assert read.refusal(data, colour="refuse").startswith("ICC 'Display P3', want sRGB (--colour convert")


@pytest.mark.parametrize("name", ["JPEG", "AVIF"])
def test_profiles_of_lossy_formats(read, name):
    data = pillow(SMOOTH, name, quality=90, icc_profile=DISPLAY_P3)
    codes = read(data, colour="ignore").pixels
    assert np.abs(read(data).pixels - 255 * p3_in_srgb(codes / 255)).max() < 0.6


def test_ten_bits(read):
    codes, notes = colour_profiles.to_srgb(DEEP10, "RGB", 10, DISPLAY_P3, "", "convert")
    assert np.abs(codes - 1023 * p3_in_srgb(DEEP10 / 1023)).max() < 1
    assert notes == ["ICC 'Display P3' to sRGB"]


@pytest.mark.parametrize("profile", [LIBRARY_SRGB, rgb_profile("any name", SRGB)], ids=["LittleCMS", "a table"])
def test_srgb_is_left_alone_bit_for_bit(read, profile):
    for data, codes in (
        (pillow(RGB8, "PNG", icc_profile=profile), RGB8),
        (with_profile(imagecodecs.png_encode(RGB16), profile), RGB16),
    ):
        for colour in ("convert", "ignore", "refuse"):
            image = read(data, colour=colour)
            assert np.array_equal(image.pixels, codes)
            assert image.notes == ()


def test_alpha_is_composited_in_srgb(read):
    data = pillow(CODES8, "PNG", icc_profile=DISPLAY_P3)
    image, alpha = read(data, background="black"), CODES8[..., 3:] / 255
    assert image.notes == ("ICC 'Display P3' to sRGB", "alpha on black")
    assert np.abs(image.pixels - alpha * 255 * p3_in_srgb(RGB8 / 255)).max() < 1.1


def test_damaged_and_foreign_profiles_are_named(read):
    damaged = pillow(RGB8, "PNG", icc_profile=b"no profile" * 20)
    assert read(damaged).notes == ("ICC profile (damaged) ignored",)
    assert np.array_equal(read(damaged).pixels, RGB8)
    assert read.refusal(damaged, colour="refuse").startswith("ICC profile (damaged), want sRGB")
    foreign = pillow(GREY8, "PNG", icc_profile=DISPLAY_P3)
    assert read(foreign).notes == ("grey", "ICC 'Display P3' of RGB for grey ignored")
    usual = read(pillow(GREY8, "PNG", icc_profile=LIBRARY_SRGB), colour="refuse")
    assert (usual.notes, usual.grey) == (("grey",), True)
    headless = DISPLAY_P3[:128] + struct.pack(">I", 0) + DISPLAY_P3[132:]  # a header without tags
    (note,) = read(pillow(RGB8, "PNG", icc_profile=headless)).notes
    assert note.startswith("ICC ")
    assert note.endswith("ignored")


def test_a_profile_of_16_bits_without_imagecodecs(monkeypatch):
    monkeypatch.setitem(sys.modules, "imagecodecs", None)
    with pytest.raises(
        ValueError, match=r"^an ICC profile of 16 bits per sample needs imagecodecs: .*--colour ignore$"
    ):
        colour_profiles.to_srgb(RGB16, "RGB", 16, DISPLAY_P3, "", "convert")


def test_the_library_default_ignores_profiles(tmp_path):
    path = tmp_path / "image"
    path.write_bytes(PROFILED["png"][0])
    image = read_image(path)
    assert np.array_equal(image.pixels, RGB8)
    assert image.notes == ("ICC 'Display P3' ignored",)


@pytest.mark.parametrize(("primaries", "curve"), [(12, 13), (9, 16), (1, 18)])
def test_avif_that_names_other_colours_by_number(read, primaries, curve):
    """Patched into the file: encoders here write sRGB's numbers."""
    data = bytearray(pillow(SMOOTH, "AVIF"))
    at = data.index(b"nclx") + 4
    assert struct.unpack_from(">HH", data, at) == (1, 13)
    struct.pack_into(">HH", data, at, primaries, curve)
    names = {12: "Display P3", 9: "BT.2020", 1: "BT.709"}[primaries], {13: "sRGB", 16: "PQ", 18: "HLG"}[curve]
    encoding = "primaries {}, curve {}".format(*names)
    reason = read.refusal(bytes(data))
    assert reason == f"colours in {encoding}, want sRGB or an ICC profile (--colour ignore reads them as sRGB)"
    assert read(bytes(data), colour="ignore").notes == (f"colours in {encoding} read as sRGB",)


# ---- CMYK ----

INKS = np.array(np.meshgrid(*[[0, 255]] * 4, indexing="ij"), np.uint8).transpose(1, 2, 3, 4, 0).reshape(4, 4, 4)
LAB = RANDOM.uniform([30, -25, -25], [70, 25, 25], (2, 2, 2, 2, 3))
LAB[0, 0, 0, 0] = 100, 0, 0
LAB[..., 1, :] = LAB[1, 1, 1] = 0
PRESS = cmyk_profile("FOGRA39", LAB)


def test_cmyk_without_a_profile(read):
    want = (255 - CODES8[..., :3].astype(float)) * (255 - CODES8[..., 3:].astype(float)) / 255
    for data in (pillow(PIL.Image.fromarray(CODES8, "CMYK"), "TIFF"), tiff(CODES8, photometric="separated")):
        image = read(data)
        assert np.abs(image.pixels - want).max() <= 0.5
        assert image.notes == ("CMYK as (1-C)(1-K)",)


def test_cmyk_jpeg(read):
    """Pillow writes it inverted, as Adobe does."""
    inks = np.dstack([SMOOTH, SMOOTH[..., :1] // 2])
    want = (255 - inks[..., :3].astype(float)) * (255 - inks[..., 3:].astype(float)) / 255
    image = read(pillow(PIL.Image.fromarray(inks, "CMYK"), "JPEG", quality=98))
    assert np.abs(image.pixels - want).max() <= 4


def test_cmyk_through_its_profile(read):
    """Corners of the profile's table; its Lab of 8 bits has steps of 0.4 and 1."""
    data = pillow(PIL.Image.fromarray(INKS, "CMYK"), "TIFF", icc_profile=PRESS)
    image = read(data)
    rounded = np.stack([(LAB[..., 0] * 2.55).round() / 2.55, *LAB[..., 1:].round().transpose(4, 0, 1, 2, 3)], -1)
    assert np.abs(image.pixels - 255 * lab_in_srgb(rounded).reshape(4, 4, 3)).max() <= 1
    assert image.notes == ("CMYK through 'FOGRA39' to sRGB",)
    ignored = read(data, colour="ignore")
    assert ignored.notes == ("ICC 'FOGRA39' ignored", "CMYK as (1-C)(1-K)")
    assert read.refusal(data, colour="refuse").startswith("ICC 'FOGRA39', want sRGB")


def test_cmyk_of_16_bits_is_refused(read):
    assert read.refusal(tiff(CODES16, photometric="separated")) == "an image in CMYK of 16 bits per sample; 8 are read"
