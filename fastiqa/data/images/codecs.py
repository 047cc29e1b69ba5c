"""encode_image, decode_image: Pillow's lossy codecs, each with one quality axis where higher is better.

    name        quality                                 options worth varying
    jpeg        1 to 95, libjpeg's scale                subsampling 4:2:0 (default), 4:2:2, 4:4:4
    webp        0 to 100                                method 0, 4, 6 (default): effort
    avif        0 to 100                                subsampling 4:2:0 (default), 4:4:4; speed 6 (default), 8
    jpeg2000    bits per pixel of the file, about       irreversible True (default): 9/7 wavelet, False: 5/3

Qualities of different codecs cannot be compared. AVIF is coded with one thread: by default libavif chooses its tiles,
and so the file's bytes, by the number of cores.
"""

from __future__ import annotations

import io
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import PIL.Image
from numpy.typing import NDArray
from PIL import features


@dataclass(frozen=True)
class Codec:
    """A lossy codec.

    Attributes:
        name: in tables and on command lines.
        format: Pillow's name.
        suffix: file suffix, with the dot.
        feature: name of its library in ``PIL.features``.
        worst, best: range of quality, from ruined photographs to ones hard to tell from the original.
        logarithmic: whether equal visual steps are equal ratios of quality.
        defaults: options for Pillow, which a caller may override.
        choices: options worth varying, with their values.
    """

    name: str
    format: str
    suffix: str
    feature: str
    worst: float
    best: float
    logarithmic: bool = False
    defaults: dict[str, Any] = field(default_factory=dict)
    choices: dict[str, tuple[Any, ...]] = field(default_factory=dict)

    def quality_at(self, position: float) -> float:
        """The quality at a position in [0, 1] from worst to best: whole, or with 3 decimals on a logarithmic axis."""
        if self.logarithmic:
            return round(float(self.worst * (self.best / self.worst) ** position), 3)
        return float(round(self.worst + (self.best - self.worst) * position))


CODECS = {
    codec.name: codec
    for codec in (
        Codec("jpeg", "JPEG", ".jpg", "jpg", 6, 92, choices={"subsampling": ("4:2:0", "4:2:2", "4:4:4")}),
        Codec("webp", "WEBP", ".webp", "webp", 1, 92, defaults={"method": 6}, choices={"method": (4, 0, 6)}),
        Codec(
            "avif", "AVIF", ".avif", "avif", 12, 84,
            defaults={"max_threads": 1},
            choices={"subsampling": ("4:2:0", "4:4:4"), "speed": (6, 8)},
        ),
        Codec(
            "jpeg2000", "JPEG2000", ".jp2", "jpg_2000", 0.08, 2.5,
            logarithmic=True,
            defaults={"mct": 1, "irreversible": True},
            choices={"irreversible": (True, False)},
        ),
    )
}  # fmt: skip


def encode_image(pixels: NDArray[np.uint8], codec: str, quality: float, **options: Any) -> bytes:
    """Encode an image to the bytes of a file.

    Args:
        pixels: (H, W, 3), uint8, RGB.
        codec: "jpeg", "webp", "avif" or "jpeg2000".
        quality: on the codec's own axis; JPEG and AVIF take whole numbers and drop a fraction.
        options: for Pillow, such as ``subsampling="4:4:4"``.

    Raises:
        ValueError: an unknown codec, or one missing from this build of Pillow; options that Pillow refuses.

    Example:
        >>> import numpy as np
        >>> from fastiqa.data.images.codecs import decode_image, encode_image
        >>> grey = np.full((32, 48, 3), 128, np.uint8)
        >>> decode_image(encode_image(grey, "jpeg", 90), "jpeg").shape
        (32, 48, 3)
    """
    known = available(codec)
    settings = known.defaults | options
    if codec == "jpeg2000":
        settings["quality_layers"] = [24 / quality]  # Pillow takes the ratio to 24 bits per pixel
    else:
        settings["quality"] = quality if codec == "webp" else int(quality)
    stream = io.BytesIO()
    PIL.Image.fromarray(pixels).save(stream, known.format, **settings)
    return stream.getvalue()


def decode_image(data: bytes, codec: str) -> NDArray[np.uint8]:
    """Decode the bytes of a file that :func:`encode_image` made with the same codec: (H, W, 3), uint8, RGB."""
    with PIL.Image.open(io.BytesIO(data), formats=[available(codec).format]) as image:
        return np.array(image.convert("RGB"))


def available(codec: str) -> Codec:
    """The codec of this name. Raises ValueError for an unknown codec or one missing from this build of Pillow."""
    if codec not in CODECS:
        raise ValueError(f"codec: got {codec!r}, want one of {', '.join(CODECS)}")
    if not features.check(CODECS[codec].feature):
        raise ValueError(f"codec: got {codec!r}, want one that this Pillow was built with")
    return CODECS[codec]
