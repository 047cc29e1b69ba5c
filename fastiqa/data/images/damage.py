"""Finds damage that decoders ignore silently.

JPEG has no checksum, and Pillow drops its library's warnings; simplejpeg (extra `cli`) reports them. A
sector that was never written leaves a run of zeros. Zeros often are valid Huffman codes, but not of a picture: they
repeat the first symbol of a table. Deflate has a checksum, which libtiff does not verify.

docs/damaged_files.md lists for each format which damage is found, and how much of it.

Sources: ITU-T T.81, annexes B and F.2; TIFF 6.0; RFC 1950.
"""

from __future__ import annotations

import importlib
import re
import struct
import zlib
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import PIL.Image
from numpy.typing import NDArray

from fastiqa.data.images.archives import BYTES_PER_PIXEL, PIECE
from fastiqa.data.images.stored_depth import TRUNCATED, Refused, tiff_spans, tiff_tags

ZEROS = bytes(64)  # at least four blocks with all coefficients equal
_END_OF_SCAN = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")
_STANDALONE = {0x01, *range(0xD0, 0xD8)}
_PROGRESSIVE = {0xC2, 0xC6, 0xCA, 0xCE}
_ARITHMETIC = range(0xC9, 0xD0)
DEFLATE = (8, 32946)


class _Scan(NamedTuple):
    """A scan: bounds of its coded data, and the first symbol of each component's AC table."""

    start: int
    end: int
    symbols: list[int]


def jpeg_pixels(data: bytes, mode: str = "RGB") -> NDArray[np.uint8] | None:
    """The pixels (H, W, channels) of an undamaged JPEG; None if simplejpeg, which detects damage, is not installed.

    libjpeg-turbo decodes them, as in Pillow, with exact transforms and interpolated chroma. `mode` is Pillow's: RGB, L
    or CMYK, whose inks come as the file stores them, often inverted.

    Raises: Refused for damaged markers, a run of zeros, or a warning of libjpeg.
    """
    for scan in _scans(data):
        if any(symbol & 15 for symbol in scan.symbols) and data.find(ZEROS, scan.start, scan.end) >= 0:
            raise Refused(f"the image is damaged: {len(ZEROS)} zeros in its coded data")
    try:
        simplejpeg = importlib.import_module("simplejpeg")
    except ImportError:
        return None
    try:
        pixels: NDArray[np.uint8] = simplejpeg.decode_jpeg(data, "GRAY" if mode == "L" else mode, strict=True)
    except ValueError as error:
        raise Refused(f"the image is damaged: {error}") from None
    return pixels


def _scans(data: bytes) -> Iterator[_Scan]:
    """The Huffman-coded scans up to the end of the image, without refinement scans, which code single bits."""
    position = 2
    first: dict[int, int] = {}  # symbol by AC table
    frame = 0
    while True:
        marker = data.find(b"\xff", position)
        while 0 <= marker < len(data) - 1 and data[marker + 1] == 0xFF:  # fill bytes
            marker += 1
        if marker < 0 or marker + 2 > len(data):
            raise Refused(TRUNCATED)
        kind = data[marker + 1]
        position = marker + 2
        if kind == 0xD9:
            return
        if kind in _STANDALONE:
            continue
        if position + 2 > len(data):
            raise Refused(TRUNCATED)
        length = struct.unpack_from(">H", data, position)[0]
        segment = data[position + 2 : position + length]
        position += max(2, length)
        if position > len(data):
            raise Refused(TRUNCATED)
        if kind == 0xC4:
            first |= _first_symbols(segment)
        elif 0xC0 <= kind <= 0xCF and kind not in (0xC8, 0xCC):
            frame = kind
        elif kind == 0xDA:
            found = _END_OF_SCAN.search(data, position)
            if found is None:
                raise Refused(TRUNCATED)
            end = found.start()
            count = segment[0] if segment else 0
            if len(segment) >= 4 + 2 * count and frame not in _ARITHMETIC:
                start, refinement = segment[1 + 2 * count], segment[3 + 2 * count] >> 4
                if frame not in _PROGRESSIVE or (start > 0 and refinement == 0):
                    tables = [segment[2 + 2 * k] & 15 for k in range(count)]
                    yield _Scan(position, end, [first[table] for table in tables if table in first])
            position = end


def _first_symbols(segment: bytes) -> dict[int, int]:
    """For each AC table of a DHT segment, the symbol with the all-zero code."""
    found, position = {}, 0
    while position + 17 < len(segment):
        count = sum(segment[position + 1 : position + 17])
        if segment[position] >> 4:
            found[segment[position] & 15] = segment[position + 17]
        position += 17 + count
    return found


def check_tiff(data: bytes) -> None:
    """Raise Refused unless each strip or tile of a Deflate TIFF is a complete stream with the right checksum."""
    tags = tiff_tags(data)
    if tags.get(259) not in DEFLATE:
        return
    spans = tiff_spans(tags)
    width, height = int(tags[256]), int(tags[257])
    across, down = (tags[322], tags[323]) if 322 in tags else (width, min(height, tags.get(278, height)))
    most = len(spans) * across * down * tags.get(277, 1) * -(-max(tags.get(258, (1,))) // 8)
    if PIL.Image.MAX_IMAGE_PIXELS is not None:
        most = min(most, BYTES_PER_PIXEL * PIL.Image.MAX_IMAGE_PIXELS)
    for offset, count in spans:
        inflate, rest = zlib.decompressobj(), data[offset : offset + count]
        while rest and not inflate.eof:
            try:
                most -= len(inflate.decompress(rest, PIECE))
            except zlib.error as error:
                raise Refused(f"the image is damaged: {error}") from None
            if most < 0:
                raise Refused("the image is damaged: more compressed data than pixels")
            rest = inflate.unconsumed_tail
        if not inflate.eof:
            raise Refused(TRUNCATED)
