"""ReadingPolicy: what becomes of images that are not plain opaque RGB.

    grey                read as grey: three equal channels; metrics take one
    palette             the colours of the palette
    alpha               composited on a background, in sRGB code values, as browsers do
    ICC profile         converted to sRGB (`fastiqa.data.images.colour_profiles`)
    CMYK                through its profile, else R = (1 - C)(1 - K), likewise G and B
    frames, pages       the first

Each decision becomes a note of the image; docs/reading_images.md lists the notes. A strict policy refuses all of these
but profiles and opaque palettes.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fastiqa.common.arguments import flag, one_of

BACKGROUNDS = ("white", "black", "checker")
COLOUR = ("convert", "ignore", "refuse")
SQUARE = 8  # pixels of a side of the checkerboard's squares, white at the top left
_HEX = re.compile(r"#[0-9a-fA-F]{6}")


@dataclass(frozen=True)
class ReadingPolicy:
    """How :func:`fastiqa.data.read_image` reads images that are not plain opaque RGB.

    Attributes:
        strict: refuse grey, alpha, CMYK, palettes with transparency or of TIFF, several frames, GIF, HEIC and JPEG XL.
        background: what alpha is composited on: "white", "black", "checker" (squares of 8 pixels, white and 80 % of the
            code values of white) or a colour "#rrggbb" of sRGB. None is white; `compare_files` then takes black too.
        colour: "convert" an ICC profile to sRGB, "ignore" it, or "refuse" every profile other than sRGB.

    Raises:
        ValueError: another value.

    Example:
        >>> from fastiqa.data import ReadingPolicy
        >>> ReadingPolicy(background="#ff8000").strict
        False
    """

    strict: bool = False
    background: str | None = None
    colour: str = "convert"

    def __post_init__(self) -> None:
        flag("strict", self.strict)
        one_of("colour", self.colour, COLOUR)
        given = self.background
        if given is None or given in BACKGROUNDS or (isinstance(given, str) and _HEX.fullmatch(given)):
            return
        raise ValueError(f"background: got {given!r}, want one of {', '.join(BACKGROUNDS)} or #rrggbb")

    def as_dict(self) -> dict[str, bool | str | None]:
        """The policy for JSON."""
        return {"strict": self.strict, "background": self.background, "colour": self.colour}


STRICT = ReadingPolicy(strict=True, colour="ignore")
"""Opaque RGB alone, as stored: for data sets and training, where an unusual file is a fault of the set."""

AS_SHOWN = ReadingPolicy()
"""Every image as a viewer shows it: the default of the commands `compare` and `score`."""


def backdrop(name: str, height: int, width: int, bit_depth: int) -> NDArray[np.uint16]:
    """A background as code values that broadcast to (height, width, channels), with one channel if it is grey."""
    white = 2**bit_depth - 1
    if name == "checker":
        dark = np.add.outer(np.arange(height) // SQUARE, np.arange(width) // SQUARE) % 2 == 1
        squares: NDArray[np.uint16] = np.where(dark, round(0.8 * white), white).astype(np.uint16)[..., None]
        return squares
    if name in BACKGROUNDS:
        return np.array([[[white if name == "white" else 0]]], np.uint16)
    codes = [int(name[k : k + 2], 16) for k in (1, 3, 5)]
    colour = codes[:1] if len(set(codes)) == 1 else codes
    return np.array([[[round(code * white / 255) for code in colour]]], np.uint16)
