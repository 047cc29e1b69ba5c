"""Reads a file's bits per sample and colours from its header, before anything is decoded.

Pillow 13 silently decodes 16-bit RGB PNG, TIFF and JPEG 2000 and 10- and 12-bit AVIF to 8 bits. It also fills the
missing rows of a PNG with zeros if the compressed data end early. Both are found here.

Sources: PNG third edition, 11.2; TIFF 6.0; ISO/IEC 14496-12 (boxes); ISO/IEC 23008-12 (colr); AV1-ISOBMFF 2.3 (av1C);
ISO/IEC 15444-1 A.5.1 (SIZ), I.5.3.3 (colr).
"""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from PIL.TiffImagePlugin import ImageFileDirectory_v2

Codes = NDArray[np.uint8] | NDArray[np.uint16]  # code values: uint8 for a bit depth of 8, uint16 above
Tags = ImageFileDirectory_v2


class Refused(ValueError):
    """A file that is not read; the message is the reason, without the file's name."""


TRUNCATED = "the file is truncated"
PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
PNG_SAMPLES = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # colour type -> samples per pixel
# ITU-T H.273. BT.601 and BT.709 are near sRGB, and viewers take them for it.
USUAL_PRIMARIES, USUAL_CURVES = (1, 2, 5, 6), (1, 2, 6, 13, 14, 15)
PRIMARIES = {1: "BT.709", 2: "unspecified", 9: "BT.2020", 11: "DCI-P3", 12: "Display P3"}
CURVES = {1: "BT.709", 2: "unspecified", 4: "gamma 2.2", 8: "linear", 13: "sRGB", 16: "PQ", 18: "HLG"}
ADAM7 = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))


def png_depth(data: bytes) -> int:
    """Bits per sample of a PNG. Raises Refused unless all chunks are complete, undamaged and hold every row."""
    position, compressed, header = len(PNG_SIGNATURE), [], b""
    kind = b""
    while kind != b"IEND":
        if position + 12 > len(data):
            raise Refused(TRUNCATED)
        length, kind = struct.unpack_from(">I4s", data, position)
        end = position + 8 + length
        if end + 4 > len(data):
            raise Refused(TRUNCATED)
        body = data[position + 8 : end]
        if zlib.crc32(body, zlib.crc32(kind)) != struct.unpack_from(">I", data, end)[0]:
            raise Refused(f"the file is damaged: checksum of PNG chunk {kind.decode('latin-1')!r}")
        if kind == b"IHDR":
            header = body
        elif kind == b"IDAT":
            compressed.append(body)
        position = end + 4
    width, height, depth, colour, _, _, interlaced = struct.unpack(">IIBBBBB", header)
    passes = ADAM7 if interlaced else ((0, 0, 1, 1),)
    wanted = 0
    for left, top, step_x, step_y in passes:
        columns, rows = -(-(width - left) // step_x), -(-(height - top) // step_y)
        if columns > 0 and rows > 0:
            wanted += rows * (1 + -(-columns * PNG_SAMPLES[colour] * depth // 8))
    if _inflated_size(compressed, wanted) < wanted:
        raise Refused(TRUNCATED)
    return int(depth)


def _inflated_size(chunks: list[bytes], enough: int) -> int:
    """The inflated size of a zlib stream in bytes, counted up to ``enough``; holds at most 1 MiB at a time."""
    inflate, size = zlib.decompressobj(), 0
    for chunk in chunks:
        rest = chunk
        while rest and size < enough:
            size += len(inflate.decompress(rest, 1 << 20))
            rest = inflate.unconsumed_tail
    return size if size >= enough else size + len(inflate.flush())


def tiff_depth(data: bytes, palettes: bool = False) -> int:
    """Bits per sample of a TIFF.

    Raises: Refused unless samples are unsigned integers, those of RGB of 8 or 16 bits, and all strips or tiles are
    present; for a palette unless `palettes`.
    """
    tags = tiff_tags(data)
    sample_format = set(tags.get(339, (1,)))
    if 3 in sample_format:
        raise Refused("a TIFF of floating-point samples, want unsigned integers")
    if sample_format != {1}:
        raise Refused("a TIFF of samples that are not unsigned integers")
    if tags.get(262) == 3 and not palettes:
        raise Refused("a palette TIFF, want RGB samples")
    depths = set(tags.get(258, (1,)))
    if any(offset + count > len(data) for offset, count in tiff_spans(tags)):
        raise Refused(TRUNCATED)
    depth = max(depths)
    if tags.get(262) == 2 and depths not in ({8}, {16}):
        raise Refused(f"an RGB TIFF of {depth} bits per sample; 8 and 16 are read")
    return int(depth)


def tiff_tags(data: bytes) -> Tags:
    """The tags of the first image in a TIFF."""
    file = io.BytesIO(data)
    header = file.read(8)
    if 43 in header[2:4]:  # BigTIFF
        header += file.read(8)
    tags = Tags(header)
    if tags.next >= len(data):
        raise Refused(TRUNCATED)
    file.seek(tags.next)
    tags.load(file)
    return tags


def tiff_spans(tags: Tags) -> list[tuple[int, int]]:
    """Offset and bytes of each strip or tile."""
    pairs = ((tags.get(offsets, ()), tags.get(counts, ())) for offsets, counts in ((273, 279), (324, 325)))
    return [span for offsets, counts in pairs for span in zip(offsets, counts, strict=False)]


def avif_depth(data: bytes) -> int:
    """Bits per sample of the deepest image item of an AVIF file."""
    depths = [
        8 if not config[2] & 0x40 else 12 if config[2] & 0x20 else 10
        for meta in boxes(data, b"meta")
        for properties in boxes(meta[4:], b"iprp")
        for container in boxes(properties, b"ipco")
        for config in boxes(container, b"av1C")
    ]
    if not depths:
        raise Refused("an AVIF file without an AV1 configuration: its bit depth is unknown")
    return max(depths)


def heif_encoding(data: bytes) -> str:
    """The colour encoding that an AVIF or HEIC file names by numbers, in words; "" where a viewer takes it for sRGB."""
    for meta in boxes(data, b"meta"):
        for properties in boxes(meta[4:], b"iprp"):
            for container in boxes(properties, b"ipco"):
                for colour in boxes(container, b"colr"):
                    if colour[:4] == b"nclx" and len(colour) >= 8:
                        primaries, curve = struct.unpack_from(">HH", colour, 4)
                        if primaries not in USUAL_PRIMARIES or curve not in USUAL_CURVES:
                            names = PRIMARIES.get(primaries, str(primaries)), CURVES.get(curve, str(curve))
                            return "primaries {}, curve {}".format(*names)
    return ""


def jpeg2000_depth(data: bytes) -> int:
    """Bits per sample of the deepest component of a JPEG 2000 file or codestream."""
    codestream = data
    if not data.startswith(b"\xff\x4f"):
        codestream = next(boxes(data, b"jp2c"), b"")
        colours = [colour for header in boxes(data, b"jp2h") for colour in boxes(header, b"colr")]
    else:
        colours = []
    if codestream[:4] != b"\xff\x4f\xff\x51":
        raise Refused("a JPEG 2000 file without a SIZ marker: its bit depth is unknown")
    components = struct.unpack_from(">H", codestream, 40)[0]
    sizes = codestream[42 : 42 + 3 * components : 3]
    if any(size & 0x80 for size in sizes):
        raise Refused("a JPEG 2000 file of signed samples")
    depth = max(size & 0x7F for size in sizes) + 1
    if depth > 8 and any(
        colour[0] == 1 and struct.unpack_from(">I", colour, 3)[0] not in (16, 17) for colour in colours
    ):
        raise Refused(f"a JPEG 2000 file of {depth} bits per sample that is neither sRGB nor grey")
    return depth


def jpeg2000_profile(data: bytes) -> bytes | None:
    """The ICC profile of a JPEG 2000 file, which Pillow 13 does not report; None where there is none."""
    if data.startswith(b"\xff\x4f"):
        return None
    colours = (colour for header in boxes(data, b"jp2h") for colour in boxes(header, b"colr"))
    return next((colour[3:] for colour in colours if colour[:1] in (b"\x02", b"\x03")), None)


def jpeg2000_without_profile(data: bytes) -> bytes:
    """The codestream alone of a file with a profile, which imagecodecs would apply in a way of its own."""
    return data if jpeg2000_profile(data) is None else next(boxes(data, b"jp2c"))


def boxes(data: bytes, wanted: bytes) -> Iterator[bytes]:
    """The contents of all boxes of one type in a sequence of ISO base-media boxes."""
    position = 0
    while position + 8 <= len(data):
        size, kind = struct.unpack_from(">I4s", data, position)
        start = position + 8
        if size == 1:
            size = struct.unpack_from(">Q", data, start)[0]
            start += 8
        elif size == 0:
            size = len(data) - position
        if size < start - position or position + size > len(data):
            raise Refused(TRUNCATED)
        if kind == wanted:
            yield data[start : position + size]
        position += size
