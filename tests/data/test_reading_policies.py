"""read_image under a policy: real files of real encoders, and the values that formulas give for them."""

from __future__ import annotations

import io
import struct
import sys
import zlib

import imagecodecs
import numpy as np
import PIL.Image
import PIL.ImageCms
import pytest
import tifffile

from fastiqa.data import ImageError, ReadingPolicy, read_image
from fastiqa.data.images import colour_profiles, jpegxl
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

RANDOM = np.random.default_rng(0)
CODES16 = RANDOM.integers(0, 65536, (30, 41, 4), dtype=np.uint16)
CODES8 = (CODES16 >> 8).astype(np.uint8)
RGB16, GREY16, GREY_ALPHA16 = CODES16[..., :3].copy(), CODES16[..., 0].copy(), CODES16[..., :2].copy()
RGB8, GREY8, GREY_ALPHA8 = CODES8[..., :3].copy(), CODES8[..., 0].copy(), CODES8[..., :2].copy()
SMOOTH = np.add.outer(np.arange(64), np.arange(80))[..., None].repeat(3, 2).astype(np.uint8)
LIBRARY_SRGB = PIL.ImageCms.ImageCmsProfile(PIL.ImageCms.createProfile("sRGB")).tobytes()
DISPLAY_P3 = rgb_profile("Display P3", P3)


def pillow(codes, name, **options):
    stream = io.BytesIO()
    image = codes if isinstance(codes, PIL.Image.Image) else PIL.Image.fromarray(codes)
    image.save(stream, name, **options)
    return stream.getvalue()


def tiff(codes, **options):
    stream = io.BytesIO()
    tifffile.imwrite(stream, codes, **options)
    return stream.getvalue()


def with_chunk(png, kind, body):
    """A PNG with another chunk in front of its image data."""
    at = png.index(b"IDAT") - 4
    crc = zlib.crc32(kind + body)
    return png[:at] + struct.pack(">I", len(body)) + kind + body + struct.pack(">I", crc) + png[at:]


def with_profile(png, profile):
    return with_chunk(png, b"iCCP", b"profile\0\0" + zlib.compress(profile))


def jp2_with_profile(codes, profile):
    """A JPEG 2000 file whose colour specification is an ICC profile."""
    data = imagecodecs.jpeg2k_encode(codes, reversible=True)
    old = data.index(b"colr") - 4
    size = struct.unpack_from(">I", data, old)[0]
    new = struct.pack(">I", 11 + len(profile)) + b"colr\x02\0\0" + profile
    header = data.index(b"jp2h") - 4
    longer = struct.unpack_from(">I", data, header)[0] + len(new) - size
    return data[:header] + struct.pack(">I", longer) + data[header + 4 : old] + new + data[old + size :]


@pytest.fixture
def read(tmp_path):
    def reading(data, **options):
        path = tmp_path / "image"  # without a suffix: the content decides
        path.write_bytes(data)
        return read_image(path, ReadingPolicy(**options))

    return reading


def refused(read, data, **options):
    with pytest.raises(ImageError) as caught:
        read(data, **options)
    assert "\n" not in str(caught.value)
    return caught.value.reason


# ---- what is plain stays as it is ----

PLAIN = {
    "png": pillow(RGB8, "PNG"),
    "png 16": imagecodecs.png_encode(RGB16),
    "jpeg": pillow(SMOOTH, "JPEG"),
    "webp": pillow(RGB8, "WEBP"),
    "avif": pillow(RGB8, "AVIF"),
    "jp2 16": imagecodecs.jpeg2k_encode(RGB16, reversible=True),
    "tiff 16": tiff(RGB16, photometric="rgb"),
}


@pytest.mark.parametrize("case", PLAIN)
def test_plain_images_are_read_as_by_default(read, tmp_path, case):
    lenient = read(PLAIN[case])
    strict = read_image(tmp_path / "image")
    assert np.array_equal(lenient.pixels, strict.pixels)
    assert lenient.bit_depth == strict.bit_depth
    assert (lenient.notes, lenient.grey, lenient.background) == ((), False, None) == (strict.notes, False, None)


# ---- grey ----

GREY = {
    "png": (pillow(GREY8, "PNG"), GREY8, 8),
    "png 16": (imagecodecs.png_encode(GREY16), GREY16, 16),
    "png 1": (pillow(PIL.Image.fromarray(GREY8).convert("1", dither=0), "PNG"), np.where(GREY8 > 127, 255, 0), 8),
    "bmp": (pillow(GREY8, "BMP"), GREY8, 8),
    "tiff": (pillow(GREY8, "TIFF", compression="tiff_adobe_deflate"), GREY8, 8),
    "tiff 16": (tiff(GREY16, photometric="minisblack"), GREY16, 16),
    "tiff 16, 0 is white": (tiff(GREY16, photometric="miniswhite"), 65535 - GREY16, 16),
    "tiff, 0 is white": (tiff(GREY8, photometric="miniswhite"), 255 - GREY8, 8),
    "avif 10": (imagecodecs.avif_encode(GREY16 >> 6, bitspersample=10, level=100), GREY16 >> 6, 10),
    "jp2 12": (imagecodecs.jpeg2k_encode(GREY16 >> 4, reversible=True, bitspersample=12), GREY16 >> 4, 12),
    "jpeg xl": (imagecodecs.jpegxl_encode(GREY8, lossless=True), GREY8, 8),
}


@pytest.mark.parametrize("case", GREY)
def test_grey_is_read_as_grey(read, case):
    data, codes, depth = GREY[case]
    image = read(data)
    assert image.pixels.dtype == (np.uint8 if depth == 8 else np.uint16)
    assert np.array_equal(image.pixels, np.stack([codes] * 3, 2))
    assert (image.bit_depth, image.grey, image.notes) == (depth, True, ("grey",))


def test_grey_jpeg(read):
    image = read(pillow(SMOOTH[..., 0], "JPEG", quality=95))
    assert image.grey
    assert image.notes == ("grey",)
    assert np.abs(image.pixels.astype(int) - SMOOTH).max() <= 4


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


# ---- alpha ----

CLEAR = (int(RGB8[3, 4, 0]), int(RGB8[3, 4, 1]), int(RGB8[3, 4, 2]))
CLEAR16 = tuple(int(code) for code in RGB16[3, 4])
KEY8, KEY16 = (np.where((codes == codes[3, 4]).all(-1), 0, 2**bits - 1) for codes, bits in ((RGB8, 8), (RGB16, 16)))
FEW = RANDOM.integers(0, 4, (30, 41)).astype(np.uint8)
COLOURS = np.array([[10, 20, 30], [200, 100, 0], [1, 2, 3], [255, 255, 255]], np.uint8)
OPACITIES = np.array([0, 255, 100, 7], np.uint8)


def with_palette():
    image = PIL.Image.fromarray(FEW, "P")
    image.putpalette(COLOURS.tobytes())
    return image


ALPHA = {
    "png": (pillow(CODES8, "PNG"), RGB8, CODES8[..., 3], 8, ()),
    "png 16": (imagecodecs.png_encode(CODES16), RGB16, CODES16[..., 3], 16, ()),
    "png, a clear colour": (pillow(RGB8, "PNG", transparency=CLEAR), RGB8, KEY8, 8, ()),
    "png 16, a clear colour": (
        with_chunk(imagecodecs.png_encode(RGB16), b"tRNS", struct.pack(">3H", *CLEAR16)), RGB16, KEY16, 16, (),
    ),
    "png of a palette": (
        pillow(with_palette(), "PNG", transparency=OPACITIES.tobytes()), COLOURS[FEW], OPACITIES[FEW], 8, ("palette",),
    ),
    "gif": (pillow(with_palette(), "GIF", transparency=2), COLOURS[FEW], np.where(FEW == 2, 0, 255), 8, ("palette",)),
    "webp": (pillow(CODES8, "WEBP", lossless=True, exact=True), RGB8, CODES8[..., 3], 8, ()),
    "avif 10": (
        imagecodecs.avif_encode(CODES16 >> 6, bitspersample=10, level=100, pixelformat="444"),
        RGB16 >> 6, CODES16[..., 3] >> 6, 10, (),
    ),
    "tiff": (pillow(CODES8, "TIFF"), RGB8, CODES8[..., 3], 8, ()),
    "tiff 16": (tiff(CODES16, photometric="rgb", extrasamples=["unassalpha"]), RGB16, CODES16[..., 3], 16, ()),
    "jp2 16": (imagecodecs.jpeg2k_encode(CODES16, reversible=True), RGB16, CODES16[..., 3], 16, ()),
    "jpeg xl": (imagecodecs.jpegxl_encode(CODES8, lossless=True), RGB8, CODES8[..., 3], 8, ()),
    "grey": (pillow(PIL.Image.fromarray(GREY_ALPHA8, "LA"), "PNG"), GREY8, CODES8[..., 1], 8, ("grey",)),
    "grey 16": (imagecodecs.png_encode(GREY_ALPHA16), GREY16, CODES16[..., 1], 16, ("grey",)),
    "grey tiff": (
        tiff(GREY_ALPHA8, photometric="minisblack", extrasamples=["unassalpha"]), GREY8, CODES8[..., 1], 8, ("grey",),
    ),
    "grey, a clear level": (pillow(GREY8, "PNG", transparency=int(GREY8[3, 4])), GREY8, KEY8, 8, ("grey",)),
}  # fmt: skip
KEYS = {"grey, a clear level": np.where(GREY8[3, 4] == GREY8, 0, 255)}
SQUARES = (np.add.outer(np.arange(30) // 8, np.arange(41) // 8) % 2)[..., None]
BACKDROPS = {
    None: np.ones((1, 1, 1)),
    "white": np.ones((1, 1, 1)),
    "black": np.zeros((1, 1, 1)),
    "checker": 1 - 0.2 * SQUARES,
    "#ff8000": np.array([[[255, 128, 0]]]) / 255,
    "#7F7f7F": np.array([[[127]]]) / 255,
}


@pytest.mark.parametrize("background", BACKDROPS)
@pytest.mark.parametrize("case", ALPHA)
def test_alpha_is_composited(read, case, background):
    data, colours, alpha, depth, notes = ALPHA[case]
    white = 2**depth - 1
    opacity = KEYS.get(case, alpha)[..., None] / white
    colours = colours if colours.ndim == 3 else colours[..., None]
    behind = (BACKDROPS[background] * white).round()  # a background has code values of the image's depth
    want = np.broadcast_to(opacity * colours + (1 - opacity) * behind, (30, 41, 3))
    image = read(data, background=background)
    assert np.abs(image.pixels - want).max() <= 0.5 + 1e-6
    said = background or "white"
    assert (image.notes, image.background) == ((*notes, f"alpha on {said}"), said)
    assert image.grey is ("grey" in case and said != "#ff8000")
    assert image.bit_depth == depth


def test_colours_that_a_tiff_multiplied_by_alpha(read):
    """Within the rounding of the file itself."""
    for codes, white in ((CODES8, 255), (CODES16, 65535)):
        alpha = np.maximum(codes[..., 3:], white // 4)
        product = (codes[..., :3] / white * alpha).round().astype(codes.dtype)
        data = tiff(np.concatenate([product, alpha], 2), photometric="rgb", extrasamples=["assocalpha"])
        for background in ("white", "black"):
            want = product.astype(float) + (0 if background == "black" else white - alpha.astype(float))
            assert np.abs(read(data, background=background).pixels - want).max() <= 1


def test_alpha_that_hides_nothing(read):
    image = read(pillow(np.dstack([RGB8, np.full((30, 41), 255, np.uint8)]), "PNG"))
    assert np.array_equal(image.pixels, RGB8)
    assert (image.notes, image.background) == (("alpha, opaque everywhere",), None)


def test_orientation_turns_alpha_too(read):
    exif = PIL.Image.Exif()
    exif[0x0112] = 6
    turned = read(pillow(CODES8, "PNG", exif=exif), background="checker").pixels
    upright = read(pillow(np.rot90(CODES8, -1).copy(), "PNG"), background="checker").pixels
    assert np.array_equal(turned, upright)


# ---- colour ----

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
    assert refused(read, data, colour="refuse").startswith("ICC 'Display P3', want sRGB (--colour convert")


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
    assert refused(read, damaged, colour="refuse").startswith("ICC profile (damaged), want sRGB")
    foreign = pillow(GREY8, "PNG", icc_profile=DISPLAY_P3)
    assert read(foreign).notes == ("grey", "ICC 'Display P3' of RGB for grey ignored")
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
    reason = refused(read, bytes(data))
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
    assert refused(read, data, colour="refuse").startswith("ICC 'FOGRA39', want sRGB")


def test_cmyk_of_16_bits_is_refused(read):
    assert refused(read, tiff(CODES16, photometric="separated")) == "an image in CMYK of 16 bits per sample; 8 are read"


# ---- frames, pages, palettes ----

FRAMES = [RGB8, np.roll(RGB8, 3, 0), 255 - RGB8]


def animation(name, frames=FRAMES, **options):
    first, *others = (PIL.Image.fromarray(frame) for frame in frames)
    return pillow(first, name, save_all=True, append_images=others, **options)


@pytest.mark.parametrize("name", ["PNG", "WEBP", "TIFF"])
def test_the_first_frame(read, name):
    image = read(animation(name, **({"lossless": True} if name == "WEBP" else {})))
    assert np.array_equal(image.pixels, RGB8)
    assert image.notes == (f"{'page' if name == 'TIFF' else 'frame'} 1 of 3",)


def test_the_first_page_of_16_bits(read):
    image = read(tiff(np.stack([RGB16, RGB16[::-1]]), photometric="rgb"))
    assert np.array_equal(image.pixels, RGB16)
    assert image.notes == ("page 1 of 2",)


def test_the_first_frame_of_a_gif(read):
    frames = [COLOURS[FEW], COLOURS[(FEW + 1) % 4]]
    image = read(animation("GIF", frames))
    assert np.array_equal(image.pixels, frames[0])
    assert image.notes == ("frame 1 of 2", "palette")


def test_the_first_frame_of_an_avif_sequence(read):
    image = read(animation("AVIF", quality=100, subsampling="4:4:4"))
    assert np.abs(image.pixels.astype(int) - RGB8).mean() < 3
    assert image.notes == ("frame 1 of 3",)


def test_palettes(read):
    assert np.array_equal(read(pillow(with_palette(), "PNG")).pixels, COLOURS[FEW])
    tiffs = read(pillow(with_palette(), "TIFF"))
    assert np.array_equal(tiffs.pixels, COLOURS[FEW])
    assert tiffs.notes == ("palette",)


# ---- JPEG XL ----


LINEAR = "colours in white point D65, primaries sRGB, curve linear"


@pytest.mark.parametrize("codes", [RGB8, RGB8[:24, :32].copy(), RGB8[:20, :30].copy(), RGB8[:20, :20].copy()])
@pytest.mark.parametrize("container", [False, True])
def test_jpeg_xl(read, codes, container):
    data = imagecodecs.jpegxl_encode(codes, lossless=True, usecontainer=container)
    image = read(data)
    assert np.array_equal(image.pixels, codes)
    assert (image.bit_depth, image.notes) == (8, ())
    about = jpegxl.header(data)
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
        assert refused(read, data, colour=colour).startswith(f"{LINEAR}, want sRGB or an ICC profile (--colour ignore")


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
    assert refused(read, floats) == "a JPEG XL file of floating-point samples, want integers of up to 16 bits"
    monkeypatch.setattr(PIL.Image, "MAX_IMAGE_PIXELS", 1000)
    assert refused(read, imagecodecs.jpegxl_encode(RGB8, lossless=True)).startswith(
        "the image has more than 1000 pixels"
    )


def test_jpeg_xl_needs_imagecodecs(read, monkeypatch):
    data = imagecodecs.jpegxl_encode(RGB8, lossless=True)
    monkeypatch.setitem(sys.modules, "imagecodecs", None)
    assert refused(read, data) == "JPEG XL needs imagecodecs: pip install 'fastiqa-kernels[cli]'"


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
    about = jpegxl.header(writer.data() + bytes(4))
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
    assert refused(read, data) == "HEIC needs pillow_heif: pip install pillow-heif"
    assert refused(read, data, strict=True).startswith("not an image in a format that is read (PNG, ")


# ---- what is refused ----

STRICTLY = {
    "grey": (GREY["png"][0], "a grey image (Pillow mode L), want RGB"),
    "alpha": (ALPHA["png"][0], "an image with an alpha channel or transparency (Pillow mode RGBA), want opaque RGB"),
    "cmyk": (pillow(PIL.Image.fromarray(CODES8, "CMYK"), "TIFF"), "an image in CMYK, want RGB"),
    "animation": (animation("PNG"), "an image of 3 frames or pages, want one"),
    "palette tiff": (pillow(with_palette(), "TIFF"), "a palette TIFF, want RGB samples"),
    "gif": (animation("GIF"), "not an image in a format that is read (PNG, "),
    "jpeg xl": (imagecodecs.jpegxl_encode(RGB8, lossless=True), "not an image in a format that is read (PNG, "),
}


@pytest.mark.parametrize("case", STRICTLY)
def test_strict(read, case):
    data, reason = STRICTLY[case]
    assert read(data).notes or case == "jpeg xl"
    assert refused(read, data, strict=True).startswith(reason)


FOREIGN = {
    "lab": (pillow(PIL.Image.fromarray(RGB8).convert("LAB"), "TIFF"), "an image in LAB, want grey, RGB or CMYK"),
    "floats": (tiff(RGB8 / np.float32(255), photometric="rgb"), "a TIFF of floating-point samples"),
    "32 bits": (tiff(GREY16.astype(np.uint32), photometric="minisblack"), "a grey image of 32 bits per sample"),
    "text": (b"this is not an image\n" * 50, "not an image in a format that is read (PNG, "),
}


@pytest.mark.parametrize("case", FOREIGN)
def test_what_no_policy_reads(read, case):
    data, reason = FOREIGN[case]
    assert refused(read, data).startswith(reason)


CUT = {
    "grey jpeg": pillow(GREY8, "JPEG"),
    "cmyk jpeg": pillow(PIL.Image.fromarray(CODES8, "CMYK"), "JPEG"),
    "grey png": GREY["png"][0],
    "png with alpha": ALPHA["png"][0],
    "png 16 with alpha": ALPHA["png 16"][0],
    "gif": pillow(with_palette(), "GIF"),
    "jpeg xl": imagecodecs.jpegxl_encode(RGB8, lossless=True),
    "animated png": animation("PNG"),
}


@pytest.mark.parametrize("case", CUT)
def test_truncated_files(read, case):
    data = CUT[case]
    assert read(data).pixels.any()
    for end in range(1, len(data) - 2, max(1, len(data) // 40)):
        reason = refused(read, data[:end])
        assert any(word in reason for word in ("truncated", "damaged", "not an image")), reason


def test_arguments():
    for options, message in (
        ({"strict": 1}, "strict: got 1, want True or False"),
        ({"colour": "keep"}, "colour: got 'keep', want one of 'convert', 'ignore', 'refuse'"),
        ({"background": "pink"}, "background: got 'pink', want one of white, black, checker or #rrggbb"),
        ({"background": "#12345"}, "background: got '#12345', want one of white, black, checker or #rrggbb"),
    ):
        with pytest.raises(ValueError, match=message):
            ReadingPolicy(**options)
