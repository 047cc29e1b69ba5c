"""read_image: an RGB image file as the code values it stores.

    PNG, TIFF                     8 and 16 bits        BMP, JPEG, WebP       8 bits
    AVIF                          8, 10 and 12 bits    JPEG 2000             8 to 16 bits

Pillow decodes 8 bits, imagecodecs (extra `cli`) more. simplejpeg (same extra), where installed, decodes JPEG
and reports damage. Precision is never lost silently. docs/damaged_files.md lists which damage is found.

Only single, opaque RGB images are read; others are refused with the reason. The EXIF orientation is applied, ICC
profiles and gamma are not. No pickle, no network.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import os
import threading
import warnings
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import TypeVar

import numpy as np
import PIL.Image
import torch
from numpy.typing import NDArray
from torch import Tensor

from fastiqa.common.extras import install_command
from fastiqa.common.text import one_line
from fastiqa.data.images import archives, damage, stored_depth
from fastiqa.data.images.stored_depth import TRUNCATED, Refused

FORMATS = ("PNG", "JPEG", "WEBP", "AVIF", "TIFF", "BMP", "JPEG2000")
GREY = {"1", "L", "I", "F", "I;16", "I;16B", "I;16L", "I;16N"}
ALPHA = {"RGBA", "RGBa", "LA", "La", "PA"}
ORIENTATION = 0x0112
PIXELS_AT_ONCE = 1 << 16  # per step of a conversion: 1.5 MB beside the result, which stay in the cache
TURNED = (5, 6, 7, 8)  # orientations that exchange height and width

Code = TypeVar("Code", np.uint8, np.uint16)


class ImageError(ValueError):
    """A file that cannot be read as an RGB image. The message is one line: the file and the reason.

    Attributes:
        path: the file as the caller named it.
        reason: why it was refused, without the file's name.
    """

    def __init__(self, path: str | os.PathLike[str], reason: str) -> None:
        self.path = os.fspath(path)
        self.reason = one_line(reason)
        super().__init__(f"{one_line(self.path)}: {self.reason}")

    def __reduce__(self) -> tuple[type[ImageError], tuple[str, str]]:  # pools of processes send errors back
        return type(self), (self.path, self.reason)


@dataclass(frozen=True, eq=False)
class Image:
    """An RGB image.

    Attributes:
        pixels: code values (H, W, 3), uint8 for a bit depth of 8 and uint16 above.
        bit_depth: bits of a code value, 8 to 16.
        path: the file.
    """

    pixels: NDArray[np.uint8] | NDArray[np.uint16]
    bit_depth: int
    path: Path

    def tensor(self, dtype: torch.dtype = torch.float32) -> Tensor:
        """The image as (1, 3, H, W) in [0, 1]: code values divided by 2**bit_depth - 1, rounded once to ``dtype``."""
        height, width = self.pixels.shape[:2]
        # float32 holds every code value and divides with one rounding; 16-bit dtypes would add a second rounding
        computed = np.float32 if dtype == torch.float32 else np.float64
        result = torch.empty(1, 3, height, width, dtype=dtype, device="cpu")
        rows = max(1, PIXELS_AT_ONCE // max(1, width))
        for top in range(0, height, rows):
            codes = np.true_divide(self.pixels[top : top + rows], 2**self.bit_depth - 1, dtype=computed)
            result[0, :, top : top + rows] = torch.from_numpy(codes).permute(2, 0, 1)
        return result


class _Decoding:
    """While any thread decodes, silences Pillow's warnings and turns the one for too many pixels into an error.

    Warning filters belong to the process. With `warnings.catch_warnings` in two threads, the last to end would restore
    the other's filters, and silence every warning of the process for good.
    """

    def __init__(self) -> None:
        self._lock, self._open, self._filters = threading.Lock(), 0, contextlib.ExitStack()

    def __enter__(self) -> None:
        with self._lock:
            if self._open == 0:
                self._filters.enter_context(warnings.catch_warnings())
                warnings.simplefilter("ignore")
                warnings.simplefilter("error", PIL.Image.DecompressionBombWarning)
            self._open += 1

    def __exit__(self, *exception: object) -> None:
        with self._lock:
            self._open -= 1
            if self._open == 0:
                self._filters.close()


_decoding = _Decoding()


def read_image(path: str | os.PathLike[str]) -> Image:
    """Read one RGB image file.

    Args:
        path: a PNG, JPEG, WebP, AVIF, TIFF, BMP or JPEG 2000 file, told by its content, not its suffix. The path may
            lead into an uncompressed .tar or a .zip: ``shards/0.tar/0abc.png``.

    Returns:
        An :class:`Image` with the stored code values, turned upright.

    Raises:
        ImageError: missing, a directory, not an image, truncated, damaged or empty; more than
            ``PIL.Image.MAX_IMAGE_PIXELS`` pixels, or more bytes than such an image can have; grey, CMYK, with an alpha
            channel, several frames or pages, or floating-point samples; deeper than 8 bits without imagecodecs.

    Example:
        >>> import numpy as np, PIL.Image, tempfile
        >>> from fastiqa.data import read_image
        >>> with tempfile.NamedTemporaryFile(suffix=".png") as file:
        ...     PIL.Image.fromarray(np.full((4, 6, 3), 255, np.uint8)).save(file.name)
        ...     image = read_image(file.name)
        >>> image.bit_depth, image.tensor().shape
        (8, torch.Size([1, 3, 4, 6]))
    """
    try:
        data = _content(path)
        with _decoding:
            return _decoded(data, Path(path))
    except Refused as error:
        raise ImageError(path, str(error)) from None
    except (PIL.Image.DecompressionBombError, PIL.Image.DecompressionBombWarning):
        limit = f"more than {PIL.Image.MAX_IMAGE_PIXELS} pixels (PIL.Image.MAX_IMAGE_PIXELS)"
        raise ImageError(path, f"the image has {limit}") from None
    except PIL.UnidentifiedImageError:
        formats = ", ".join(FORMATS)
        raise ImageError(path, f"not an image in a format that is read ({formats}), or truncated early") from None
    except OSError as error:
        reason = error.strerror or (TRUNCATED if "truncated" in str(error) else f"the image is damaged: {error}")
        raise ImageError(path, reason) from None
    except Exception as error:  # damaged files make decoders raise SyntaxError, struct.error, zlib.error, codec errors…
        raise ImageError(path, f"the image is damaged: {error or type(error).__name__}") from None


def _content(path: str | os.PathLike[str]) -> bytes:
    file = Path(path)
    if "\0" in str(file):
        raise Refused("not a file name")
    if file.is_dir():
        raise Refused("is a directory")
    if file.exists() and not file.is_file():
        raise Refused("not a regular file")
    if file.exists():
        archives.check_size(file.stat().st_size)
        data: bytes | None = file.read_bytes()
    else:
        data = archives.read_member(file)
    if data is None:
        raise Refused("no such file")
    if not data:
        raise Refused("the file is empty")
    return data


def _decoded(data: bytes, path: Path) -> Image:
    """Decode a file's content to an upright image."""
    depth = 8
    if data[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):  # tags first: Pillow cannot name a floating-point TIFF
        depth = stored_depth.tiff_depth(data)
    PIL.Image.init()
    formats = [name for name in FORMATS if name in PIL.Image.OPEN]
    with PIL.Image.open(BytesIO(data), formats=formats) as image:
        if image.format == "PNG":
            depth = stored_depth.png_depth(data)
        elif image.format == "AVIF":
            depth = stored_depth.avif_depth(data)
        elif image.format == "JPEG2000":
            depth = stored_depth.jpeg2000_depth(data)
        _refuse_other_than_rgb(image)
        if image.format == "TIFF":
            damage.check_tiff(data)
        if depth > 8:
            orientation = image.getexif().get(ORIENTATION, 1)
            size = (image.height, image.width)
            if image.format == "TIFF" and orientation in TURNED:  # Pillow reports the upright size of a TIFF
                size = size[::-1]
            deep = _deep(data, str(image.format), size, depth)
            return Image(_upright(deep, orientation), depth, path)
        checked = damage.jpeg_pixels(data) if image.format in ("JPEG", "MPO") else None
        if checked is not None:
            return Image(_upright(checked, image.getexif().get(ORIENTATION, 1)), 8, path)
        image.load()
        orientation = image.getexif().get(ORIENTATION, 1)  # after load, which turns TIFF itself
        pixels = np.asarray(image.convert("RGB"), dtype=np.uint8)
        return Image(_upright(pixels, orientation), 8, path)


def _refuse_other_than_rgb(image: PIL.Image.Image) -> None:
    mode = image.mode
    if mode in ALPHA or "transparency" in image.info:
        raise Refused(f"an image with an alpha channel or transparency (Pillow mode {mode}), want opaque RGB")
    if mode in GREY:
        raise Refused(f"a grey image (Pillow mode {mode}), want RGB")
    if mode not in ("RGB", "P"):
        raise Refused(f"an image in {mode}, want RGB")
    if mode == "P" and (image.palette is None or image.palette.mode != "RGB"):
        raise Refused("a palette with transparency, want opaque RGB")
    frames = getattr(image, "n_frames", 1)
    if frames > 1 and image.format != "MPO":  # an MPO file is a JPEG with previews behind it
        raise Refused(f"an image of {frames} frames or pages, want one")


def _deep(data: bytes, name: str, size: tuple[int, int], depth: int) -> NDArray[np.uint16]:
    """Decode code values of more than 8 bits with imagecodecs."""
    try:
        imagecodecs = importlib.import_module("imagecodecs")
    except ImportError:
        raise Refused(f"{depth} bits per sample need imagecodecs: {install_command('cli')}") from None
    decode = {
        "PNG": imagecodecs.png_decode,
        "TIFF": functools.partial(imagecodecs.tiff_decode, index=0),
        "AVIF": imagecodecs.avif_decode,
        "JPEG2000": imagecodecs.jpeg2k_decode,
    }[name]
    pixels: NDArray[np.uint16] = decode(data)
    if pixels.shape == (3, *size):  # TIFF with one plane per channel
        pixels = pixels.transpose(1, 2, 0)
    if pixels.shape != (*size, 3) or pixels.dtype != np.uint16 or int(pixels.max()) >= 2**depth:
        raise Refused(f"decoding {depth}-bit {name} gave {pixels.dtype} values of shape {pixels.shape}")
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
