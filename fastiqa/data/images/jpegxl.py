"""JPEG XL files of up to 16 bits, decoded by imagecodecs (extra `cli`).

imagecodecs tells neither the size before it decodes nor the colour encoding, so both are read from the header.

Source: ISO/IEC 18181-1:2024, annexes D and E; ISO/IEC 18181-2 (boxes).
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass

import numpy as np
import PIL.Image

from fastiqa.common.extras import install_command
from fastiqa.data.images.heic import Stored
from fastiqa.data.images.stored_depth import TRUNCATED, Refused, boxes

CODESTREAM = b"\xff\x0a"
CONTAINER = b"\x00\x00\x00\x0cJXL \r\n\x87\n"
RATIOS = ((1, 1), (12, 10), (4, 3), (3, 2), (16, 9), (5, 4), (2, 1))  # width to height
SRGB = (1, 1, 13)  # white point D65, primaries of BT.709, the transfer curve of sRGB
NAMES = {
    "white point": {1: "D65", 2: "custom", 10: "E", 11: "DCI"},
    "primaries": {1: "sRGB", 2: "custom", 9: "BT.2100", 11: "P3"},
    "curve": {1: "BT.709", 2: "unknown", 8: "linear", 13: "sRGB", 16: "PQ", 17: "DCI", 18: "HLG"},
}


@dataclass(frozen=True)
class Header:
    """What a JPEG XL codestream says of its image.

    Attributes:
        width, height: in pixels, before it is turned upright.
        bit_depth: bits per sample.
        floating: whether the samples are floating-point numbers.
        animated: whether frames follow the first.
        colour: "" for sRGB, or a grey of its curve, else the encoding in words.
        unread: what makes the samples something else than grey or RGB with an alpha beside it, or "".
    """

    width: int
    height: int
    bit_depth: int = 8
    floating: bool = False
    animated: bool = False
    colour: str = ""
    unread: str = ""


def is_jpegxl(data: bytes) -> bool:
    """Whether a file is JPEG XL."""
    return data.startswith((CODESTREAM, CONTAINER))


def decode_jpegxl(data: bytes) -> Stored:
    """Decode the first frame, upright."""
    about = jpegxl_header(data)
    limit = PIL.Image.MAX_IMAGE_PIXELS
    if limit is not None and about.width * about.height > limit:
        raise PIL.Image.DecompressionBombError
    if about.floating or not 1 <= about.bit_depth <= 16:
        kind = "floating-point samples" if about.floating else f"{about.bit_depth} bits per sample"
        raise Refused(f"a JPEG XL file of {kind}, want integers of up to 16 bits")
    if about.unread:
        raise Refused(f"a JPEG XL file {about.unread}")
    try:
        imagecodecs = importlib.import_module("imagecodecs")
    except ImportError:
        raise Refused(f"JPEG XL needs imagecodecs: {install_command('cli')}") from None
    if not imagecodecs.JPEGXL.available:
        raise Refused("JPEG XL needs an imagecodecs built with libjxl")
    codes = imagecodecs.jpegxl_decode(data, index=0)
    depth = max(8, about.bit_depth)
    if codes.dtype != (np.uint8 if depth == 8 else np.uint16) or codes.ndim not in (2, 3):
        raise Refused(f"decoding {depth}-bit JPEG XL gave {codes.dtype} values of shape {codes.shape}")
    notes = ("frame 1 of an animation",) if about.animated else ()
    return Stored(codes.reshape(*codes.shape[:2], -1), depth, None, about.colour, notes)


def jpegxl_header(data: bytes) -> Header:
    """Read the header of a JPEG XL file. Raises Refused where it ends early."""
    if data.startswith(CODESTREAM):
        stream = data
    else:
        whole = next(boxes(data, b"jxlc"), None)
        stream = b"".join(part[4:] for part in boxes(data, b"jxlp")) if whole is None else whole
    if not stream.startswith(CODESTREAM):
        raise Refused("a JPEG XL file without a codestream")
    bits = _Bits(stream[2:])
    width, height = _size(bits)
    if bits.flag():  # all the rest is the default: sRGB
        return Header(width, height)
    animated = False
    if bits.flag():
        bits.take(3)  # orientation, which libjxl applies
        if bits.flag():
            _size(bits)  # intrinsic size
        if bits.flag():
            _preview(bits)
        if animated := bits.flag():
            bits.number((100, 0), (1000, 0), (1, 10), (1, 30))
            bits.number((1, 0), (1001, 0), (1, 8), (1, 10))
            bits.number((0, 0), (0, 3), (0, 16), (0, 32))
            bits.take(1)
    floating, depth = _depth(bits)
    bits.take(1)  # 16-bit buffers suffice
    found = [_extra_channel(bits) for _ in range(bits.number((0, 0), (1, 0), (2, 4), (1, 12)))]
    bits.take(1)  # XYB
    return Header(width, height, depth, floating, animated, _colour(bits), next(filter(None, found), ""))


class _Bits:
    """Reads bits, the lowest of a byte first."""

    def __init__(self, data: bytes) -> None:
        self._data, self._at = data, 0

    def take(self, count: int) -> int:
        end = self._at + count
        if end > 8 * len(self._data):
            raise Refused(TRUNCATED)
        window = int.from_bytes(self._data[self._at // 8 : -(-end // 8)], "little")
        value = (window >> (self._at % 8)) & ((1 << count) - 1)
        self._at = end
        return value

    def flag(self) -> bool:
        return self.take(1) == 1

    def number(self, *kinds: tuple[int, int]) -> int:
        """The standard's U32: two bits choose among four pairs of an offset and a number of bits."""
        offset, count = kinds[self.take(2)]
        return offset + self.take(count)

    def name(self) -> int:
        """The standard's Enum."""
        return self.number((0, 0), (1, 0), (2, 4), (18, 6))


def _size(bits: _Bits) -> tuple[int, int]:
    """Width and height."""
    small = bits.flag()

    def side() -> int:
        return 8 * (1 + bits.take(5)) if small else bits.number((1, 9), (1, 13), (1, 18), (1, 30))

    height = side()
    ratio = bits.take(3)
    return (side() if ratio == 0 else height * RATIOS[ratio - 1][0] // RATIOS[ratio - 1][1]), height


def _preview(bits: _Bits) -> None:
    by_eight = bits.flag()

    def side() -> int:
        if by_eight:
            return bits.number((16, 0), (32, 0), (1, 5), (33, 9))
        return bits.number((1, 6), (65, 8), (321, 10), (1345, 12))

    side()
    if bits.take(3) == 0:
        side()


def _depth(bits: _Bits) -> tuple[bool, int]:
    if bits.flag():
        depth = bits.number((32, 0), (16, 0), (24, 0), (1, 6))
        bits.take(4)  # bits of the exponent
        return True, depth
    return False, bits.number((8, 0), (10, 0), (12, 0), (1, 6))


def _extra_channel(bits: _Bits) -> str:
    """Read over a channel; what makes it unreadable, or ""."""
    if bits.flag():  # alpha of 8 bits
        return ""
    kind = bits.name()
    _depth(bits)
    bits.number((0, 0), (3, 0), (4, 0), (1, 3))
    for _ in range(bits.number((0, 0), (0, 4), (16, 5), (48, 10))):
        bits.take(8)  # its name
    if kind == 0:
        return "with colours multiplied by alpha" if bits.flag() else ""
    if kind == 2:
        bits.take(64)  # a spot colour
    elif kind == 5:
        bits.number((1, 0), (0, 2), (3, 4), (19, 8))
    return "in CMYK" if kind == 4 else ""


def _colour(bits: _Bits) -> str:
    if bits.flag():
        return ""
    if bits.flag():
        return "an ICC profile"
    space = bits.name()
    if space not in (0, 1):
        return "XYB" if space == 2 else "an unknown space"
    white = bits.name()
    if white == 2:
        return "a custom white point"
    primaries = 1 if space == 1 else bits.name()
    if primaries == 2:
        return "custom primaries"
    curve = -1 if bits.flag() else bits.name()
    if (white, primaries, curve) == SRGB:
        return ""
    words = (NAMES["white point"].get(white), NAMES["primaries"].get(primaries), NAMES["curve"].get(curve, "gamma"))
    return ", ".join(f"{key} {word}" for key, word in zip(NAMES, words, strict=True))
