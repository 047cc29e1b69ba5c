"""How much damage `read_image` finds in each format: prints the table of docs/damaged_files.md.

Files of smooth colour with grain, 256x256 pixels, are damaged at random places in their second half: one byte or bit
is changed, or 512 bytes become zeros. Run `python tests/support/image_damage.py`.
"""

from __future__ import annotations

import io
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import imagecodecs
import numpy as np
import PIL.Image
import tifffile

from fastiqa.data import ImageError, read_image

SIDE = 256
KINDS = ("one bit", "one byte", "512 zeros")


def picture(seed: int) -> np.ndarray:
    """Smooth colour with grain, (256, 256, 3) uint8."""
    generator = np.random.default_rng(seed)
    coarse = PIL.Image.fromarray(generator.integers(0, 256, (24, 24, 3), dtype=np.uint8))
    smooth = np.asarray(coarse.resize((SIDE, SIDE), PIL.Image.Resampling.BICUBIC), np.float64)
    return (smooth + generator.normal(0, 8, smooth.shape)).clip(0, 255).astype(np.uint8)


def pillow(codes: np.ndarray, name: str, **options: object) -> bytes:
    stream = io.BytesIO()
    PIL.Image.fromarray(codes).save(stream, name, **options)
    return stream.getvalue()


def tiff(codes: np.ndarray, compression: str | None) -> bytes:
    stream = io.BytesIO()
    tifffile.imwrite(stream, codes, photometric="rgb", compression=compression)
    return stream.getvalue()


FORMATS = {
    "PNG": lambda codes: pillow(codes, "PNG"),
    "PNG, 16 bits": lambda codes: imagecodecs.png_encode(codes * np.uint16(257)),
    "JPEG": lambda codes: pillow(codes, "JPEG", quality=75),
    "JPEG, own tables": lambda codes: pillow(codes, "JPEG", quality=90, optimize=True),
    "JPEG, restart markers": lambda codes: pillow(codes, "JPEG", quality=75, restart_marker_rows=1),
    "JPEG, progressive": lambda codes: pillow(codes, "JPEG", quality=75, progressive=True),
    "WebP": lambda codes: pillow(codes, "WEBP", quality=80),
    "WebP, lossless": lambda codes: pillow(codes, "WEBP", lossless=True),
    "AVIF": lambda codes: pillow(codes, "AVIF"),
    "JPEG 2000": lambda codes: pillow(codes, "JPEG2000", irreversible=True, quality_layers=[10]),
    "JPEG 2000, lossless": lambda codes: pillow(codes, "JPEG2000"),
    "TIFF": lambda codes: tiff(codes, None),
    "TIFF, LZW": lambda codes: tiff(codes, "lzw"),
    "TIFF, Deflate": lambda codes: tiff(codes, "zlib"),
    "TIFF, Deflate, 16 bits": lambda codes: tiff(codes * np.uint16(257), "zlib"),
    "TIFF, Zstandard": lambda codes: tiff(codes, "zstd"),
    "BMP": lambda codes: pillow(codes, "BMP"),
}


def damaged(data: bytes, kind: str, count: int, seed: int = 0) -> Iterator[bytes]:
    """Damaged copies of a file, each at another place."""
    generator = np.random.default_rng(seed)
    for _ in range(count):
        at = int(generator.integers(len(data) // 2, len(data) - 512))
        if kind == "512 zeros":
            yield data[:at] + bytes(512) + data[at + 512 :]
        else:
            change = 1 << int(generator.integers(8)) if kind == "one bit" else int(generator.integers(1, 256))
            yield data[:at] + bytes([data[at] ^ change]) + data[at + 1 :]


def found(data: bytes, kind: str, count: int, folder: Path) -> tuple[int, int]:
    """Count damaged copies: how many are refused, and how many of the others have the right pixels."""
    file = folder / "image"
    file.write_bytes(data)
    pixels = read_image(file).pixels
    refused = right = 0
    for copy in damaged(data, kind, count):
        file.write_bytes(copy)
        try:
            right += np.array_equal(read_image(file).pixels, pixels)
        except ImageError:
            refused += 1
    return refused, right


def main(count: int) -> None:
    print("| format |", " | ".join(KINDS), "|")
    print("| --- |", " | ".join("--:" for _ in KINDS), "|")
    with tempfile.TemporaryDirectory() as folder:
        for name, encode in FORMATS.items():
            data = encode(picture(0))
            cells = []
            for kind in KINDS:
                refused, right = found(data, kind, count, Path(folder))
                cells.append(f"{100 * (refused + right) / count:.0f} %")
            print(f"| {name} |", " | ".join(cells), "|", flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]) if sys.argv[1:] else 200)
