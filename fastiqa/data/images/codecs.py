"""encode_image, decode_image: lossy codecs, each with one quality axis where higher is better.

    name        quality                                 options worth varying
    jpeg        1 to 95, libjpeg's scale                subsampling 4:2:0 (default), 4:2:2, 4:4:4; table, see
                                                        `TABLES`; progressive False (default), True
    webp        0 to 100                                method 0, 4, 6 (default): effort
    avif        0 to 100                                subsampling 4:2:0 (default), 4:4:4; speed 6 (default), 8, 10
    jpeg2000    bits per pixel of the file, about       irreversible True (default): 9/7 wavelet, False: 5/3
    jpegxl      0 to 100, cjxl's scale of distances     effort 3 (default), 5
    jpegxr      0 to 100, exclusive
    htj2k       1 / quantisation step of the wavelets
    heic        0 to 100                                chroma 420 (default), 444

Pillow codes the first four, imagecodecs (extra `cli`) JPEG XL, JPEG XR and high-throughput JPEG 2000, pillow-heif HEIC.
Qualities of different codecs cannot be compared. AVIF and JPEG XL are coded with one thread: by default libavif chooses
its tiles, and so the file's bytes, by the number of cores.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import io
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import PIL.Image
import PIL.ImageFile
from numpy.typing import NDArray
from PIL import features

from fastiqa.common.extras import install_command

ROBIDOUX = (
    16, 16, 16, 18, 25, 37, 56, 85,
    16, 17, 20, 27, 34, 40, 53, 75,
    16, 20, 24, 31, 43, 62, 91, 135,
    18, 27, 31, 40, 53, 74, 106, 156,
    25, 34, 43, 53, 69, 94, 131, 189,
    37, 40, 62, 74, 94, 124, 169, 238,
    56, 53, 91, 106, 131, 169, 226, 311,
    85, 75, 135, 156, 189, 238, 311, 418,
)  # fmt: skip
MS_SSIM_LUMA = (
    12, 17, 20, 21, 30, 34, 56, 63,
    18, 20, 20, 26, 28, 51, 61, 55,
    19, 20, 21, 26, 33, 58, 69, 55,
    26, 26, 26, 30, 46, 87, 86, 66,
    31, 33, 36, 40, 46, 96, 100, 73,
    40, 35, 46, 62, 81, 100, 111, 91,
    46, 66, 76, 86, 102, 121, 120, 101,
    68, 90, 90, 96, 113, 102, 105, 103,
)  # fmt: skip
MS_SSIM_CHROMA = (
    8, 12, 15, 15, 86, 96, 96, 98,
    13, 13, 15, 26, 90, 96, 99, 98,
    12, 15, 18, 96, 99, 99, 99, 99,
    17, 16, 90, 96, 99, 99, 99, 99,
    96, 96, *(99,) * 6,
    *(99,) * 24,
)  # fmt: skip

TABLES: dict[str, tuple[tuple[int, ...], tuple[int, ...]] | None] = {
    "standard": None,  # Annex K of the standard: libjpeg's own
    "robidoux": (ROBIDOUX, ROBIDOUX),  # N. Robidoux for ImageMagick; cjpeg of MozJPEG takes it by default
    "ms-ssim": (MS_SSIM_LUMA, MS_SSIM_CHROMA),  # MozJPEG's -quant-table 2, tuned for MS-SSIM on Kodak's photographs
    "flat": ((16,) * 64, (16,) * 64),  # MozJPEG's -quant-table 1
}
"""JPEG's quantisation tables for luma and chroma at quality 50, row by row. libjpeg's rule scales them."""


@dataclass(frozen=True)
class Codec:
    """A lossy codec.

    Attributes:
        name: in tables and on command lines.
        format: Pillow's name, or the prefix of the functions in imagecodecs.
        suffix: file suffix, with the dot.
        feature: name of its library in ``PIL.features``; "" for codecs of other packages.
        worst, best: range of quality, from ruined photographs to ones hard to tell from the original.
        everyday: range of quality of pictures as people publish them, up to visually lossless.
        package: the module that codes: PIL, imagecodecs or pillow_heif.
        logarithmic: whether equal visual steps are equal ratios of quality.
        defaults: options for the encoder, which a caller may override.
        choices: options worth varying, with their values, in the profile "classic" of ``fastiqa data synth``.
        world_choices: the same in the profile "world"; None for `choices`.
    """

    name: str
    format: str
    suffix: str
    feature: str
    worst: float
    best: float
    everyday: tuple[float, float]
    package: str = "PIL"
    logarithmic: bool = False
    defaults: dict[str, Any] = field(default_factory=dict)
    choices: dict[str, tuple[Any, ...]] = field(default_factory=dict)
    world_choices: dict[str, tuple[Any, ...]] | None = None

    def quality_at(self, position: float, limits: tuple[float, float] | None = None) -> float:
        """The quality at a position in [0, 1] between two limits: whole, or with 3 decimals on a logarithmic axis.

        Args:
            position: 0 for the first limit, 1 for the second.
            limits: lower and upper quality, by default from `worst` to `best`.
        """
        low, high = limits or (self.worst, self.best)
        if self.logarithmic:
            return round(float(low * (high / low) ** position), 3)
        return float(round(low + (high - low) * position))


CODECS = {
    codec.name: codec
    for codec in (
        Codec(
            "jpeg", "JPEG", ".jpg", "jpg", 6, 92, (30, 97),
            choices={"subsampling": ("4:2:0", "4:2:2", "4:4:4")},
            world_choices={
                "subsampling": ("4:2:0", "4:2:2", "4:4:4"), "table": tuple(TABLES), "progressive": (False, True),
            },
        ),
        Codec(
            "webp", "WEBP", ".webp", "webp", 1, 92, (20, 96),
            defaults={"method": 6},
            choices={"method": (4, 0, 6)},
            world_choices={"method": (4, 0)},
        ),
        Codec(
            "avif", "AVIF", ".avif", "avif", 12, 84, (30, 92),
            defaults={"max_threads": 1},
            choices={"subsampling": ("4:2:0", "4:4:4"), "speed": (6, 8)},
            world_choices={"subsampling": ("4:2:0", "4:4:4"), "speed": (8, 10)},  # 66 and 16 ms for 512², 6 takes 195
        ),
        Codec(
            "jpeg2000", "JPEG2000", ".jp2", "jpg_2000", 0.08, 2.5, (0.25, 4.0),
            logarithmic=True,
            defaults={"mct": 1, "irreversible": True},
            choices={"irreversible": (True, False)},
        ),
        Codec(
            "jpegxl", "jpegxl", ".jxl", "", 10, 96, (30, 96),
            package="imagecodecs",
            defaults={"effort": 3, "numthreads": 1},
            choices={"effort": (3, 5)},
        ),
        Codec("jpegxr", "jpegxr", ".jxr", "", 5, 92, (8, 90), package="imagecodecs"),
        Codec("htj2k", "htj2k", ".jph", "", 8, 150, (8, 100), package="imagecodecs", logarithmic=True),
        Codec(
            "heic", "HEIF", ".heic", "", 5, 90, (20, 84),
            package="pillow_heif",
            defaults={"chroma": 420},
            choices={"chroma": (420, 444)},
        ),
    )
}  # fmt: skip

CLASSIC = ("jpeg", "webp", "avif", "jpeg2000")
"""The codecs of Pillow alone."""


def encode_image(pixels: NDArray[np.uint8], codec: str, quality: float, **options: Any) -> bytes:
    """Encode an image to the bytes of a file.

    Args:
        pixels: (H, W, 3), uint8, RGB.
        codec: one of `CODECS`.
        quality: on the codec's own axis; JPEG, AVIF and HEIC take whole numbers and drop a fraction.
        options: for Pillow, such as ``subsampling="4:4:4"``, or for imagecodecs or pillow-heif; JPEG also takes
            ``table``, a name in `TABLES`.

    Raises:
        ValueError: an unknown codec, or one missing here; options that the encoder refuses.

    Example:
        >>> import numpy as np
        >>> from fastiqa.data.images.codecs import decode_image, encode_image
        >>> grey = np.full((32, 48, 3), 128, np.uint8)
        >>> decode_image(encode_image(grey, "jpeg", 90), "jpeg").shape
        (32, 48, 3)
    """
    known = available(codec)
    settings = known.defaults | options
    if known.package == "imagecodecs":
        encode = getattr(importlib.import_module("imagecodecs"), f"{known.format}_encode")
        return bytes(encode(np.ascontiguousarray(pixels), **_strength(codec, quality), **settings))
    if codec == "jpeg2000":
        settings["quality_layers"] = [24 / quality]  # Pillow takes the ratio to 24 bits per pixel
    else:
        settings["quality"] = quality if codec == "webp" else int(quality)
    if "table" in settings:
        tables = TABLES[settings.pop("table")]
        settings |= {} if tables is None else {"qtables": [list(table) for table in tables]}
    stream = io.BytesIO()
    image = PIL.Image.fromarray(pixels)
    if known.package == "pillow_heif":
        importlib.import_module("pillow_heif").from_pillow(image).save(stream, **settings)
    elif codec == "jpeg":
        # Pillow hands a progressive JPEG to libjpeg in one buffer of a byte a pixel, too little for noise at quality 94
        with _buffers_of(pixels.nbytes):
            image.save(stream, known.format, **settings)
    else:
        image.save(stream, known.format, **settings)
    return stream.getvalue()


@contextlib.contextmanager
def _buffers_of(size: int) -> Iterator[None]:
    """Let Pillow's encoders write at least so many bytes at once."""
    before, PIL.ImageFile.MAXBLOCK = PIL.ImageFile.MAXBLOCK, max(PIL.ImageFile.MAXBLOCK, 2 * size)
    try:
        yield
    finally:
        PIL.ImageFile.MAXBLOCK = before


def _strength(codec: str, quality: float) -> dict[str, float]:
    """The argument of imagecodecs that sets the quality."""
    if codec == "jpegxl":
        return {"distance": butteraugli_distance(quality)}
    return {"level": quality / 100 if codec == "jpegxr" else 1 / quality}


def butteraugli_distance(quality: float) -> float:
    """The distance that cjxl takes for a quality from 0 to 100: 1.0, visually lossless, for 90.

    Source: JxlEncoderDistanceFromQuality of libjxl 0.11.
    """
    if quality >= 100:
        return 0.0
    if quality >= 30:
        return 0.1 + (100 - quality) * 0.09
    return 53 / 3000 * quality**2 - 23 / 20 * quality + 25


def decode_image(data: bytes, codec: str) -> NDArray[np.uint8]:
    """Decode the bytes of a file that :func:`encode_image` made with the same codec: (H, W, 3), uint8, RGB."""
    known = available(codec)
    if known.package == "imagecodecs" and codec != "htj2k":
        pixels: NDArray[np.uint8] = getattr(importlib.import_module("imagecodecs"), f"{known.format}_decode")(data)
        return pixels
    if known.package == "pillow_heif":
        return np.array(importlib.import_module("pillow_heif").open_heif(io.BytesIO(data)).to_pillow().convert("RGB"))
    # OpenJPEG decodes both kinds of JPEG 2000; imagecodecs 2026.3 lets white that overshoots to 256 wrap to 0
    with PIL.Image.open(io.BytesIO(data), formats=["JPEG2000" if codec == "htj2k" else known.format]) as image:
        return np.array(image.convert("RGB"))


def available(codec: str) -> Codec:
    """The codec of this name.

    Raises:
        ValueError: an unknown codec; one missing from this build of Pillow or imagecodecs, or whose package is not
            installed: the message names the command that installs it.
    """
    if codec not in CODECS:
        raise ValueError(f"codec: got {codec!r}, want one of {', '.join(CODECS)}")
    known = CODECS[codec]
    if known.package == "PIL":
        if not features.check(known.feature):
            raise ValueError(f"codec: got {codec!r}, want one that this Pillow was built with")
        return known
    if importlib.util.find_spec(known.package) is None:
        command = install_command("cli") if known.package == "imagecodecs" else "pip install pillow-heif"
        raise ValueError(f"codec: {codec} needs {known.package}: {command}")
    if known.package == "imagecodecs":
        library = getattr(importlib.import_module("imagecodecs"), known.format.upper(), None)
        if library is None or not library.available:
            raise ValueError(f"codec: got {codec!r}, want one that this imagecodecs was built with")
    return known


def codec_version(codec: str) -> str | None:
    """The version of the library that codes, such as "libjxl 0.11.2"; None where it does not tell."""
    known = available(codec)
    if known.package == "PIL":
        return features.version(known.feature)
    module = importlib.import_module(known.package)
    if known.package == "imagecodecs":
        return str(getattr(module, f"{known.format}_version")())
    information = module.libheif_info()
    return f"libheif {information['libheif']}, {information['HEIF']}"
