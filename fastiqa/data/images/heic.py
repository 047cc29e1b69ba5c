"""HEIC and HEIF files of 8 to 16 bits, decoded by pillow-heif, which is no part of an extra: it brings x265 (GPL)."""

from __future__ import annotations

import importlib
import io
from typing import NamedTuple

import numpy as np
import PIL.Image
from numpy.typing import NDArray

from fastiqa.data.images.stored_depth import Refused, heif_encoding

BRANDS = {b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis"}  # of images coded with HEVC
OPEN_BRANDS = {b"mif1", b"msf1"}  # of AVIF too: the compatible brands decide


class Stored(NamedTuple):
    """An image of another library than Pillow.

    Attributes:
        pixels: upright, (H, W, 1 to 4), uint8 or uint16, grey or RGB; the last of 2 or 4 channels is alpha.
        bit_depth: 8 to 16.
        profile: the ICC profile, or None.
        encoding: the colour encoding in words where it is neither sRGB nor that of the profile, else "".
        notes: such as "frame 1 of an animation".
    """

    pixels: NDArray[np.uint8] | NDArray[np.uint16]
    bit_depth: int
    profile: bytes | None
    encoding: str = ""
    notes: tuple[str, ...] = ()


def is_heic(data: bytes) -> bool:
    """Whether a file's first box names HEIC."""
    if data[4:8] != b"ftyp":
        return False
    size = min(int.from_bytes(data[:4], "big"), 4096)
    brands = {data[8:12], *(data[k : k + 4] for k in range(16, size, 4))}
    return data[8:12] in BRANDS or (data[8:12] in OPEN_BRANDS and bool(brands & BRANDS) and b"avif" not in brands)


def decode_heic(data: bytes) -> Stored:
    """Decode the primary image; pillow-heif applies rotation and mirroring."""
    try:
        library = importlib.import_module("pillow_heif")
    except ImportError:
        raise Refused("HEIC needs pillow_heif: pip install pillow-heif") from None
    opened = library.open_heif(io.BytesIO(data), convert_hdr_to_8bit=False)
    limit = PIL.Image.MAX_IMAGE_PIXELS
    if limit is not None and opened.size[0] * opened.size[1] > limit:
        raise PIL.Image.DecompressionBombError
    codes = np.asarray(opened)
    depth = 8
    if codes.dtype == np.uint16:  # code values fill the upper bits
        depth = int(opened.info["bit_depth"])
        codes = codes >> (16 - depth)
    codes = codes.reshape(*codes.shape[:2], -1)
    if opened.mode.startswith(("RGBa", "La")):
        raise Refused("a HEIC file with colours multiplied by alpha")
    notes = (f"image {opened.primary_index + 1} of {len(opened)}, the primary one",) if len(opened) > 1 else ()
    return Stored(
        np.ascontiguousarray(codes), depth, opened.info.get("icc_profile") or None, heif_encoding(data), notes
    )
