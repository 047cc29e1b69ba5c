"""read_image under a policy: real files of real encoders, and the values that formulas give for them."""

from __future__ import annotations

import struct

import imagecodecs
import numpy as np
import PIL.Image
import pytest

from fastiqa.data import ReadingPolicy, read_image
from support.image_files import (
    CODES8,
    CODES16,
    GREY8,
    GREY16,
    GREY_ALPHA8,
    GREY_ALPHA16,
    RGB8,
    RGB16,
    SMOOTH,
    Reader,
    pillow,
    tiff,
    with_chunk,
)

RANDOM = np.random.default_rng(1)


@pytest.fixture
def read(tmp_path):
    return Reader(tmp_path)


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
    assert read.refusal(data, strict=True).startswith(reason)


FOREIGN = {
    "lab": (pillow(PIL.Image.fromarray(RGB8).convert("LAB"), "TIFF"), "an image in LAB, want grey, RGB or CMYK"),
    "floats": (tiff(RGB8 / np.float32(255), photometric="rgb"), "a TIFF of floating-point samples"),
    "32 bits": (tiff(GREY16.astype(np.uint32), photometric="minisblack"), "a grey image of 32 bits per sample"),
    "text": (b"this is not an image\n" * 50, "not an image in a format that is read (PNG, "),
}


@pytest.mark.parametrize("case", FOREIGN)
def test_what_no_policy_reads(read, case):
    data, reason = FOREIGN[case]
    assert read.refusal(data).startswith(reason)


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
        reason = read.refusal(data[:end])
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
