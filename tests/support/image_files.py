"""Small images, encoders of files that hold them, and a reader of such files under a policy."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import PIL.Image
import pytest
import tifffile

from fastiqa.data import Image, ImageError, ReadingPolicy, read_image

CODES16 = np.random.default_rng(0).integers(0, 65536, (30, 41, 4), dtype=np.uint16)
CODES8 = (CODES16 >> 8).astype(np.uint8)
RGB16, GREY16, GREY_ALPHA16 = CODES16[..., :3].copy(), CODES16[..., 0].copy(), CODES16[..., :2].copy()
RGB8, GREY8, GREY_ALPHA8 = CODES8[..., :3].copy(), CODES8[..., 0].copy(), CODES8[..., :2].copy()
SMOOTH = np.add.outer(np.arange(64), np.arange(80))[..., None].repeat(3, 2).astype(np.uint8)


class Reader:
    """Reads the bytes of a file under a policy."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "image"  # without a suffix: the content decides

    def __call__(self, data: bytes, **options: Any) -> Image:
        self.path.write_bytes(data)
        return read_image(self.path, ReadingPolicy(**options))

    def refusal(self, data: bytes, **options: Any) -> str:
        """Why the file is refused."""
        with pytest.raises(ImageError) as caught:
            self(data, **options)
        assert "\n" not in str(caught.value)
        return caught.value.reason


def pillow(codes: Any, name: str, **options: Any) -> bytes:
    """A file that Pillow writes of an image or an array."""
    stream = io.BytesIO()
    image = codes if isinstance(codes, PIL.Image.Image) else PIL.Image.fromarray(codes)
    image.save(stream, name, **options)
    return stream.getvalue()


def tiff(codes: Any, **options: Any) -> bytes:
    """A file that tifffile writes."""
    stream = io.BytesIO()
    tifffile.imwrite(stream, codes, **options)
    return stream.getvalue()


def with_chunk(png: bytes, kind: bytes, body: bytes) -> bytes:
    """A PNG with another chunk in front of its image data."""
    at = png.index(b"IDAT") - 4
    crc = zlib.crc32(kind + body)
    return png[:at] + struct.pack(">I", len(body)) + kind + body + struct.pack(">I", crc) + png[at:]


def with_profile(png: bytes, profile: bytes) -> bytes:
    """A PNG with an ICC profile."""
    return with_chunk(png, b"iCCP", b"profile\0\0" + zlib.compress(profile))


def jp2_with_profile(codes: Any, profile: bytes) -> bytes:
    """A JPEG 2000 file whose colour specification is an ICC profile."""
    data = imagecodecs.jpeg2k_encode(codes, reversible=True)
    old = data.index(b"colr") - 4
    size = struct.unpack_from(">I", data, old)[0]
    new = struct.pack(">I", 11 + len(profile)) + b"colr\x02\0\0" + profile
    header = data.index(b"jp2h") - 4
    longer = struct.unpack_from(">I", data, header)[0] + len(new) - size
    return data[:header] + struct.pack(">I", longer) + data[header + 4 : old] + new + data[old + size :]
