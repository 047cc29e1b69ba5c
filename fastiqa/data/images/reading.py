"""read_image: an image file as the RGB code values it stores, or as a viewer shows it.

    PNG, TIFF                     8 and 16 bits        BMP, JPEG, WebP, GIF  8 bits
    AVIF                          8, 10 and 12 bits    JPEG 2000, JPEG XL    8 to 16 bits
    HEIC                          8, 10 and 12 bits

Pillow decodes 8 bits, imagecodecs (extra `cli`) more and JPEG XL, pillow-heif HEIC. simplejpeg (extra `cli`), where
installed, decodes JPEG and reports damage. Precision is never lost silently. docs/damaged_files.md lists which damage
is found.

A `ReadingPolicy` says what becomes of grey, alpha, CMYK, palettes, animations and ICC profiles. By default only single,
opaque RGB images are read, profiles ignored, and others refused with the reason: GIF, JPEG XL and HEIC too. The EXIF
orientation is applied; gamma is not. No pickle, no network.
"""

from __future__ import annotations

import contextlib
import os
import threading
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import PIL.Image
import torch
from numpy.typing import NDArray
from torch import Tensor

from fastiqa.common.text import one_line
from fastiqa.data.images import archives
from fastiqa.data.images.colour_profiles import to_srgb
from fastiqa.data.images.decoding import FORMATS, LENIENT_FORMATS, decode_samples
from fastiqa.data.images.policy import STRICT, ReadingPolicy, backdrop
from fastiqa.data.images.stored_depth import TRUNCATED, Codes, Refused

PIXELS_AT_ONCE = 1 << 16  # per step of a conversion: 1.5 MB beside the result, which stay in the cache


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
        notes: what was decided in reading it, such as "grey" or "alpha on white"; docs/reading_images.md lists them.
        grey: whether the file is grey: the three channels are equal.
        background: what its alpha was composited on, or None for an opaque image.
    """

    pixels: NDArray[np.uint8] | NDArray[np.uint16]
    bit_depth: int
    path: Path
    notes: tuple[str, ...] = ()
    grey: bool = False
    background: str | None = None

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


def read_image(path: str | os.PathLike[str], policy: ReadingPolicy = STRICT) -> Image:
    """Read one image file.

    Args:
        path: a PNG, JPEG, WebP, AVIF, TIFF, BMP or JPEG 2000 file, and under a policy that is not strict a GIF, HEIC or
            JPEG XL one, told by its content, not its suffix. The path may lead into an uncompressed .tar or a .zip:
            ``shards/0.tar/0abc.png``.
        policy: what becomes of images that are not plain opaque RGB. The default refuses them and ignores ICC profiles;
            ``ReadingPolicy()`` reads them as a viewer shows them.

    Returns:
        An :class:`Image` with the stored code values, turned upright, and as the policy wants them.

    Raises:
        ImageError: missing, a directory, not an image, truncated, damaged or empty; more than
            ``PIL.Image.MAX_IMAGE_PIXELS`` pixels, or more bytes than such an image can have; floating-point samples;
            refused by the policy; a decoder's package is not installed.

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
            return _decoded(data, Path(path), policy)
    except Refused as error:
        raise ImageError(path, str(error)) from None
    except (PIL.Image.DecompressionBombError, PIL.Image.DecompressionBombWarning):
        limit = f"more than {PIL.Image.MAX_IMAGE_PIXELS} pixels (PIL.Image.MAX_IMAGE_PIXELS)"
        raise ImageError(path, f"the image has {limit}") from None
    except PIL.UnidentifiedImageError:
        formats = ", ".join(FORMATS if policy.strict else (*LENIENT_FORMATS, "HEIC", "JPEG XL"))
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


def _decoded(data: bytes, path: Path, policy: ReadingPolicy) -> Image:
    """Decode a file's content to an upright image as the policy wants it."""
    stored = decode_samples(data, policy.strict)
    depth, notes = stored.bit_depth, [*stored.notes]
    pixels, decided = to_srgb(stored.pixels, stored.space, depth, stored.profile, stored.encoding, policy.colour)
    notes += ["grey"] if stored.space == "grey" else []
    notes += decided
    background = None
    if stored.alpha is not None:
        background = policy.background or "white"
        pixels = _composite(pixels, stored.alpha, background, depth)
        notes.append(f"alpha on {background}")
    grey = pixels.shape[2] == 1
    return Image(pixels.repeat(3, 2) if grey else pixels, depth, path, tuple(notes), grey, background)


def _composite(pixels: Codes, alpha: Codes, background: str, bit_depth: int) -> Codes:
    """(alpha · pixels + (1 - alpha) · background), rounded to code values, a few rows at a time."""
    height, width, channels = pixels.shape
    behind, white = backdrop(background, height, width, bit_depth).astype(np.uint32), 2**bit_depth - 1
    result = np.empty((height, width, max(channels, behind.shape[2])), pixels.dtype)
    step = max(1, PIXELS_AT_ONCE // max(1, width))
    for top in range(0, height, step):
        rows = slice(top, top + step)
        opacity = alpha[rows, :, None].astype(np.uint32)
        under = behind if len(behind) == 1 else behind[rows]
        result[rows] = (pixels[rows] * opacity + under * (white - opacity) + white // 2) // white
    return result
