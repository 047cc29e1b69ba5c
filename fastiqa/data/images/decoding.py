"""decode_samples: the upright samples of an image file as it stores them, before any policy of colour or alpha."""

from __future__ import annotations

import functools
import importlib
from dataclasses import dataclass
from io import BytesIO
from typing import TypeVar

import numpy as np
import PIL.Image
from numpy.typing import NDArray

from fastiqa.common.extras import install_command
from fastiqa.data.images import damage, heic, jpegxl, stored_depth
from fastiqa.data.images.stored_depth import Codes, Refused, Tags

FORMATS = ("PNG", "JPEG", "WEBP", "AVIF", "TIFF", "BMP", "JPEG2000")
LENIENT_FORMATS = (*FORMATS, "GIF")  # of Pillow
GREY = {"1", "L", "I", "F", "I;16", "I;16B", "I;16L", "I;16N"}
ALPHA = {"RGBA", "RGBa", "LA", "La", "PA"}
TIFFS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
ORIENTATION = 0x0112
TURNED = (5, 6, 7, 8)  # orientations that exchange height and width
PREMULTIPLIED, MIN_IS_WHITE = 1, 0  # of TIFF's tags ExtraSamples and PhotometricInterpretation

Code = TypeVar("Code", np.uint8, np.uint16)


@dataclass(frozen=True, eq=False)
class Samples:
    """What a file stores.

    Attributes:
        pixels: (H, W, channels), uint8 for a bit depth of 8, else uint16.
        space: "grey", "RGB" or "CMYK", of 1, 3 and 4 channels.
        bit_depth: 8 to 16.
        alpha: (H, W) of the same dtype and depth, or None; colours are not multiplied by it.
        profile: the ICC profile, or None.
        encoding: the colour encoding in words where it is neither sRGB nor that of the profile, else "".
        notes: what was left out or changed, such as "frame 1 of 12".
    """

    pixels: Codes
    space: str
    bit_depth: int
    alpha: Codes | None = None
    profile: bytes | None = None
    encoding: str = ""
    notes: tuple[str, ...] = ()


def decode_samples(data: bytes, strict: bool) -> Samples:
    """Decode a file's content.

    Args:
        data: the file.
        strict: refuse all but opaque RGB in `FORMATS`.

    Raises:
        Refused: what cannot be read, or must not; decoders raise errors of their own for damaged files.
    """
    if not strict:
        if heic.is_heic(data):
            return _samples(*heic.decode_heic(data))
        if jpegxl.is_jpegxl(data):
            return _samples(*jpegxl.decode_jpegxl(data))
    depth = 8
    if data[:4] in TIFFS:  # tags first: Pillow cannot name a floating-point TIFF
        depth = stored_depth.tiff_depth(data, palettes=not strict)
    PIL.Image.init()
    formats = [name for name in (FORMATS if strict else LENIENT_FORMATS) if name in PIL.Image.OPEN]
    with PIL.Image.open(BytesIO(data), formats=formats) as image:
        if image.format == "PNG":
            depth = stored_depth.png_depth(data)
        elif image.format == "AVIF":
            depth = stored_depth.avif_depth(data)
        elif image.format == "JPEG2000":
            depth = stored_depth.jpeg2000_depth(data)
        (_refuse_other_than_rgb if strict else _refuse_unknown)(image, depth)
        notes = []
        if (frames := _frames(image)) > 1:
            notes.append(f"{'page' if image.format == 'TIFF' else 'frame'} 1 of {frames}")
        if image.mode in ("P", "PA"):
            notes.append("palette")
        if image.format == "TIFF":
            damage.check_tiff(data)
        profile = stored_depth.jpeg2000_profile(data) if image.format == "JPEG2000" else image.info.get("icc_profile")
        cmyk = image.mode == "CMYK"
        pixels = _deep(data, image, depth) if depth > 8 else _shallow(data, image)
        encoding = stored_depth.heif_encoding(data) if image.format == "AVIF" else ""
        return _samples(pixels, max(8, depth), profile or None, encoding, tuple(notes), cmyk)


def _samples(
    pixels: Codes, depth: int, profile: bytes | None, encoding: str, notes: tuple[str, ...], cmyk: bool = False
) -> Samples:
    """Part colours and alpha by the number of channels."""
    channels = pixels.shape[2]
    colours = 4 if cmyk else 1 if channels < 3 else 3
    alpha = pixels[..., colours] if channels > colours else None
    if alpha is not None and int(alpha.min()) == 2**depth - 1:
        alpha, notes = None, (*notes, "alpha, opaque everywhere")
    space = "CMYK" if cmyk else "grey" if colours == 1 else "RGB"
    coloured = pixels if channels == colours else pixels[..., :colours].copy()
    return Samples(coloured, space, depth, alpha, profile, encoding, notes)


def _frames(image: PIL.Image.Image) -> int:
    """How many frames or pages; an MPO file is a JPEG with previews behind it."""
    return 1 if image.format == "MPO" else getattr(image, "n_frames", 1)


def _refuse_other_than_rgb(image: PIL.Image.Image, depth: int) -> None:
    mode = image.mode
    if mode in ALPHA or "transparency" in image.info:
        raise Refused(f"an image with an alpha channel or transparency (Pillow mode {mode}), want opaque RGB")
    if mode in GREY:
        raise Refused(f"a grey image (Pillow mode {mode}), want RGB")
    if mode not in ("RGB", "P"):
        raise Refused(f"an image in {mode}, want RGB")
    if mode == "P" and (image.palette is None or image.palette.mode != "RGB"):
        raise Refused("a palette with transparency, want opaque RGB")
    if (frames := _frames(image)) > 1:
        raise Refused(f"an image of {frames} frames or pages, want one")


def _refuse_unknown(image: PIL.Image.Image, depth: int) -> None:
    if image.mode in ("I", "F"):
        raise Refused(f"a grey image of {max(depth, 32)} bits per sample; up to 16 are read")
    if image.mode not in {*GREY, *ALPHA, "P", "RGB", "CMYK"}:
        raise Refused(f"an image in {image.mode}, want grey, RGB or CMYK")
    if image.mode == "CMYK" and depth > 8:
        raise Refused(f"an image in CMYK of {depth} bits per sample; 8 are read")


def _shallow(data: bytes, image: PIL.Image.Image) -> NDArray[np.uint8]:
    """Decode 8 bits or fewer."""
    if image.format in ("JPEG", "MPO"):
        checked = damage.jpeg_pixels(data, image.mode)
        if checked is not None and image.mode != "CMYK":  # Pillow knows which writers invert CMYK
            return _upright(checked, image.getexif().get(ORIENTATION, 1))
    image.load()
    orientation = image.getexif().get(ORIENTATION, 1)  # after load, which turns TIFF itself
    clear = image.mode in ALPHA or "transparency" in image.info
    if image.mode == "P":
        clear = clear or (image.palette is not None and image.palette.mode != "RGB")
    colours = "L" if image.mode in GREY or image.mode in ("LA", "La") else "RGB"
    target = image.mode if image.mode == "CMYK" else {"L": "LA", "RGB": "RGBA"}[colours] if clear else colours
    pixels = np.asarray(image.convert(target), dtype=np.uint8)
    return _upright(pixels.reshape(*pixels.shape[:2], -1), orientation)


def _deep(data: bytes, image: PIL.Image.Image, depth: int) -> NDArray[np.uint16]:
    """Decode code values of more than 8 bits with imagecodecs."""
    try:
        imagecodecs = importlib.import_module("imagecodecs")
    except ImportError:
        raise Refused(f"{depth} bits per sample need imagecodecs: {install_command('cli')}") from None
    name, orientation = str(image.format), image.getexif().get(ORIENTATION, 1)
    size = (image.height, image.width)
    if name == "TIFF" and orientation in TURNED:  # Pillow reports the upright size of a TIFF
        size = size[::-1]
    decoder = {
        "PNG": imagecodecs.png_decode,
        "TIFF": functools.partial(imagecodecs.tiff_decode, index=0),
        "AVIF": functools.partial(imagecodecs.avif_decode, index=0),
        "JPEG2000": lambda file: imagecodecs.jpeg2k_decode(stored_depth.jpeg2000_without_profile(file)),
    }[name]
    pixels: NDArray[np.uint16] = decoder(data)
    if pixels.ndim == 3 and pixels.shape[1:] == size:  # TIFF with one plane per channel
        pixels = pixels.transpose(1, 2, 0)
    shape = pixels.shape
    pixels = pixels[..., None] if pixels.shape == size else pixels
    clear = image.mode in ALPHA or "transparency" in image.info
    channels = (2, 4) if clear else (1,) if image.mode in GREY else (3,)  # Pillow calls grey with alpha RGBA, too
    fits = pixels.shape[:2] == size and pixels.ndim == 3 and pixels.shape[2] in channels
    if not fits or pixels.dtype != np.uint16 or int(pixels.max()) >= 2**depth:
        raise Refused(f"decoding {depth}-bit {name} gave {pixels.dtype} values of shape {shape}")
    if name == "TIFF":
        pixels = _as_tagged(pixels, stored_depth.tiff_tags(data), depth)
    return _upright(pixels, orientation)


def _as_tagged(pixels: NDArray[np.uint16], tags: Tags, depth: int) -> NDArray[np.uint16]:
    """Undo what a TIFF's tags say of its samples: 0 is white, or colours are multiplied by alpha."""
    white = 2**depth - 1
    if tags.get(262) == MIN_IS_WHITE:
        pixels = np.concatenate([white - pixels[..., :1], pixels[..., 1:]], 2)
    if PREMULTIPLIED in tags.get(338, ()) and pixels.shape[2] in (2, 4):
        alpha = np.maximum(pixels[..., -1:].astype(np.uint32), 1)
        colours = np.minimum((pixels[..., :-1].astype(np.uint32) * white + alpha // 2) // alpha, white)
        pixels = np.concatenate([colours.astype(np.uint16), pixels[..., -1:]], 2)
    return pixels


def _upright(pixels: NDArray[Code], orientation: object) -> NDArray[Code]:
    """Turn pixels upright by EXIF orientation 1 to 8; any other value counts as 1."""
    if orientation in TURNED:
        pixels = pixels.transpose(1, 0, 2)
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    return np.ascontiguousarray(pixels)
