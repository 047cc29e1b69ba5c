"""ICC profiles: their names, and conversion to sRGB by LittleCMS.

The rendering intent is relative colorimetric with black-point compensation: colours inside sRGB keep their
coordinates, white becomes white and black becomes black, as in browsers. Pillow converts 8 bits, imagecodecs (extra
`cli`) more, which Pillow would round to 8.

A profile that moves no colour of a lattice by more than one of 255 code values counts as sRGB, whatever its name:
files with it keep their code values bit for bit.

Sources: ICC.1:2022; Adobe, Black Point Compensation (ISO 18619); IEC 61966-2-1.
"""

from __future__ import annotations

import functools
import importlib
import io
from dataclasses import dataclass
from typing import Any

import numpy as np
import PIL.Image
from numpy.typing import NDArray
from PIL import features

from fastiqa.common.extras import install_command
from fastiqa.common.text import one_line
from fastiqa.data.images.stored_depth import Codes, Refused

INTENT, BLACK_POINT_COMPENSATION = 1, 0x2000  # LittleCMS's numbers
# No tables instead of the profile's curves: with them, 16-bit Display P3 was wrong by up to 3437 of 65535 code values,
# without by 35. Twelve megapixels take 1.7 s instead of 0.2.
EXACT = 0x100
SPACES = {"RGB": "RGB", "GRAY": "grey", "CMYK": "CMYK"}  # ICC's names, ours
MODES = {"RGB": "RGB", "grey": "L", "CMYK": "CMYK"}  # Pillow's
LONGEST_NAME = 80


@dataclass(frozen=True)
class Profile:
    """What is known of an ICC profile.

    Attributes:
        name: its description, in one line.
        space: "RGB", "grey", "CMYK" or ICC's name of another; "" for a profile that LittleCMS cannot read.
    """

    name: str
    space: str

    def __str__(self) -> str:
        return f"ICC {self.name!r}" if self.space else "ICC profile (damaged)"


@functools.lru_cache(maxsize=64)
def profile_of(content: bytes) -> Profile:
    """Read an ICC profile's name and colour space. Raises Refused where Pillow has no LittleCMS."""
    try:
        about = _opened(content).profile
        name, space = about.profile_description, about.xcolor_space.strip()
    except (OSError, ValueError):
        return Profile("", "")
    return Profile(one_line((name or "").strip())[:LONGEST_NAME] or "without a name", SPACES.get(space, space))


def to_srgb(
    pixels: Codes, space: str, bit_depth: int, content: bytes | None, encoding: str, colour: str
) -> tuple[Codes, list[str]]:
    """Turn the pixels of a file into sRGB code values, or grey ones of sRGB's transfer curve.

    Args:
        pixels: (H, W, channels), uint8 for a bit depth of 8, else uint16.
        space: "grey", "RGB" or "CMYK", of 1, 3 and 4 channels.
        bit_depth: 8 to 16.
        content: the file's ICC profile, or None.
        encoding: another colour encoding in words, which cannot be converted; "" for sRGB.
        colour: of :class:`fastiqa.data.images.policy.ReadingPolicy`.

    Returns:
        The pixels, of 1 channel for grey, else of 3, and notes on what was done.

    Raises:
        Refused: colour is "refuse" and the profile is not that of sRGB; another encoding, unless colour is "ignore";
            imagecodecs or LittleCMS is missing.
    """
    notes = []
    if encoding and content is None:
        if colour != "ignore":
            raise Refused(f"colours in {encoding}, want sRGB or an ICC profile (--colour ignore reads them as sRGB)")
        notes.append(f"colours in {encoding} read as sRGB")
    if content is not None:
        converted, note = _through_profile(pixels, space, bit_depth, content, colour)
        notes += [] if note is None else [note]
        if converted is not None:
            return converted, notes
    if space == "CMYK":
        notes.append("CMYK as (1-C)(1-K)")
        return _plain_cmyk(pixels, bit_depth), notes
    return pixels, notes


def _through_profile(
    pixels: Codes, space: str, bit_depth: int, content: bytes, colour: str
) -> tuple[Codes | None, str | None]:
    """The converted pixels, or None where they stay as they are, and a note."""
    if not features.check("littlecms2"):
        if colour == "ignore":
            return None, "ICC profile ignored"
        raise Refused("an ICC profile needs a Pillow with LittleCMS (--colour ignore reads the code values as sRGB)")
    profile = profile_of(content)
    fits = profile.space == space
    # the curve of sRGB is that of its grey
    known = "RGB" if space == "grey" and profile.space == "RGB" else space
    if known == profile.space and known != "CMYK" and _is_srgb(content, known):
        return None, None
    if colour == "ignore":
        return None, f"{profile} ignored"
    if colour == "refuse":
        raise Refused(f"{profile}, want sRGB (--colour convert or --colour ignore)")
    if not fits:  # viewers, too, show such files without the profile
        reason = f" of {profile.space} for {space}" if profile.space else ""
        return None, f"{profile}{reason} ignored"
    shown = f"CMYK through {profile.name!r}" if space == "CMYK" else str(profile)
    try:
        return _converted(pixels, space, bit_depth, content), f"{shown} to sRGB"
    except _NotConvertible:
        return None, f"{profile} (not convertible) ignored"


class _NotConvertible(ValueError):
    """LittleCMS finds no way from a profile to sRGB."""


def _opened(content: bytes) -> Any:
    return importlib.import_module("PIL.ImageCms").ImageCmsProfile(io.BytesIO(content))


@functools.lru_cache(maxsize=8)
def _transform(content: bytes, space: str) -> Any:
    """Pillow's transform of 8 bits."""
    cms = importlib.import_module("PIL.ImageCms")
    try:
        return cms.buildTransform(
            _opened(content),
            cms.createProfile("sRGB"),
            MODES[space],
            "RGB",
            renderingIntent=INTENT,
            flags=cms.Flags(BLACK_POINT_COMPENSATION | EXACT),
        )
    except cms.PyCMSError as error:
        raise _NotConvertible(one_line(str(error))) from None


def _converted(pixels: Codes, space: str, bit_depth: int, content: bytes) -> Codes:
    if bit_depth == 8:
        image = PIL.Image.fromarray(pixels[..., 0] if space == "grey" else pixels, MODES[space])
        result: Codes = np.asarray(_transform(content, space).apply(image))
    else:
        result = _converted_deep(pixels, space, bit_depth, content)
    return result[..., 1:2].copy() if space == "grey" else result  # neutral: all three are equal


def _converted_deep(pixels: Codes, space: str, bit_depth: int, content: bytes) -> NDArray[np.uint16]:
    """LittleCMS on 16 bits; other depths are scaled to 16 and back."""
    try:
        imagecodecs = importlib.import_module("imagecodecs")
    except ImportError:
        needed = f"an ICC profile of {bit_depth} bits per sample needs imagecodecs: {install_command('cli')}"
        raise Refused(f"{needed}, or --colour ignore") from None
    if not imagecodecs.CMS.available:
        raise Refused(
            f"an ICC profile of {bit_depth} bits per sample needs an imagecodecs with LittleCMS, or --colour ignore"
        )
    white = 2**bit_depth - 1
    codes = pixels if bit_depth == 16 else _scaled(pixels, white, 65535)
    try:
        result: NDArray[np.uint16] = imagecodecs.cms_transform(
            np.ascontiguousarray(codes[..., 0] if space == "grey" else codes),
            content,
            srgb(),
            colorspace={"grey": "gray"}.get(space, space.lower()),
            outcolorspace="rgb",
            intent=INTENT,
            flags=BLACK_POINT_COMPENSATION | EXACT,
        )
    except (RuntimeError, ValueError) as error:
        raise _NotConvertible(one_line(str(error))) from None
    return result if bit_depth == 16 else _scaled(result, 65535, white)


def _scaled(codes: Codes, white: int, other: int) -> NDArray[np.uint16]:
    """Code values of another maximum, rounded."""
    return ((codes.astype(np.uint32) * other + white // 2) // white).astype(np.uint16)


@functools.lru_cache(maxsize=1)
def srgb() -> bytes:
    """LittleCMS's own sRGB profile."""
    cms = importlib.import_module("PIL.ImageCms")
    return bytes(cms.ImageCmsProfile(cms.createProfile("sRGB")).tobytes())


@functools.lru_cache(maxsize=64)
def _is_srgb(content: bytes, space: str) -> bool:
    """Whether conversion moves no colour of a lattice by more than one code value."""
    if space == "grey":
        lattice = np.arange(256, dtype=np.uint8).reshape(16, 16, 1)
    else:
        steps = np.arange(0, 256, 15, dtype=np.uint8)
        lattice = np.stack(np.meshgrid(steps, steps, steps, indexing="ij"), -1).reshape(18, -1, 3)
    try:
        moved = _converted(lattice, space, 8, content).astype(np.int16) - lattice
    except _NotConvertible:
        return False
    return bool(np.abs(moved).max() <= 1)


def _plain_cmyk(pixels: Codes, bit_depth: int) -> Codes:
    """R = (1 - C)(1 - K), likewise G and B, rounded to code values."""
    white = 2**bit_depth - 1
    inks = white - pixels.astype(np.uint32)
    result: Codes = ((inks[..., :3] * inks[..., 3:] + white // 2) // white).astype(pixels.dtype)
    return result
