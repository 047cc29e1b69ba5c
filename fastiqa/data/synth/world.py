"""The profile "world": codings as pictures meet them on the way to a screen, and pairs of near quality.

    plain        photograph → codec
    social       photograph → shrunk → JPEG of quality 70 to 85 → shrunk again or not → JPEG of 70 to 85 → enlarged
    scaled       photograph → shrunk → codec → enlarged, each by one of Pillow's five smooth kernels
    denoised     photograph → Gaussian or median filter → codec
    sharpened    photograph → codec → unsharp mask, or the mask first

Every codec gets a plain ladder and every pipeline one more, with a random codec (JPEG in "social"). Qualities run over
the codec's everyday range up to visually lossless. JPEG is coded by several quantisation tables and subsamplings, and
progressively or not. All images have the photograph's size.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import PIL.Image
from numpy.typing import NDArray
from PIL import ImageFilter

from fastiqa.data.images.codecs import CODECS, TABLES, decode_image, encode_image
from fastiqa.data.synth.ladder import DistortedImage

Pixels = NDArray[np.uint8]

KERNELS = {
    "box": PIL.Image.Resampling.BOX,
    "bilinear": PIL.Image.Resampling.BILINEAR,
    "hamming": PIL.Image.Resampling.HAMMING,
    "bicubic": PIL.Image.Resampling.BICUBIC,
    "lanczos": PIL.Image.Resampling.LANCZOS,
}
ENLARGING = ("bilinear", "bicubic", "lanczos")  # box and Hamming enlarge to blocks
SHRUNK = (0.5, 0.9)  # factor per shrinking
SOCIAL = (70, 85)  # JPEG's quality
GAUSSIAN = (0.3, 0.8)  # standard deviation in pixels
UNSHARP_RADIUS = (0.5, 2.0)  # pixels
UNSHARP_PERCENT = (30, 120)
SAME_LADDER = 3  # one pair in three is from one ladder


@dataclass(frozen=True)
class Shrink:
    """Scale by a factor below 1."""

    factor: float
    kernel: str

    def words(self) -> str:
        """The step in the column of settings."""
        return f"shrink={self.factor}:{self.kernel}"

    def apply(self, image: PIL.Image.Image, size: tuple[int, int]) -> PIL.Image.Image:
        """The image after the step; size is the photograph's (width, height)."""
        smaller = (max(1, round(image.width * self.factor)), max(1, round(image.height * self.factor)))
        return image.resize(smaller, KERNELS[self.kernel])


@dataclass(frozen=True)
class Enlarge:
    """Scale to the photograph's size."""

    kernel: str

    def words(self) -> str:
        """See `Shrink`."""
        return f"enlarge={self.kernel}"

    def apply(self, image: PIL.Image.Image, size: tuple[int, int]) -> PIL.Image.Image:
        """See `Shrink`."""
        return image.resize(size, KERNELS[self.kernel])


@dataclass(frozen=True)
class Jpeg:
    """Code as JPEG and decode: an earlier generation of a picture that is coded again."""

    quality: int
    subsampling: str
    table: str

    def words(self) -> str:
        """See `Shrink`."""
        return f"jpeg={self.quality}:{self.subsampling}:{self.table}"

    def apply(self, image: PIL.Image.Image, size: tuple[int, int]) -> PIL.Image.Image:
        """See `Shrink`."""
        data = encode_image(
            np.asarray(image), "jpeg", self.quality, subsampling=self.subsampling, table=self.table, progressive=True
        )
        return PIL.Image.fromarray(decode_image(data, "jpeg"))


@dataclass(frozen=True)
class Denoise:
    """Remove noise: a Gaussian of this standard deviation in pixels, or for 0 the median of 3x3."""

    deviation: float

    def words(self) -> str:
        """See `Shrink`."""
        return f"gaussian={self.deviation}" if self.deviation else "median=3"

    def apply(self, image: PIL.Image.Image, size: tuple[int, int]) -> PIL.Image.Image:
        """See `Shrink`."""
        return image.filter(ImageFilter.GaussianBlur(self.deviation) if self.deviation else ImageFilter.MedianFilter(3))


@dataclass(frozen=True)
class Sharpen:
    """Unsharp mask: radius in pixels, strength in per cent."""

    radius: float
    percent: int

    def words(self) -> str:
        """See `Shrink`."""
        return f"unsharp={self.radius}:{self.percent}"

    def apply(self, image: PIL.Image.Image, size: tuple[int, int]) -> PIL.Image.Image:
        """See `Shrink`."""
        return image.filter(ImageFilter.UnsharpMask(self.radius, self.percent, threshold=0))


Step = Shrink | Enlarge | Jpeg | Denoise | Sharpen


@dataclass(frozen=True)
class WorldLadder:
    """The settings that all images of a ladder share, and their qualities.

    Attributes:
        codec, options: encoder and its options.
        qualities: in increasing order.
        before, after: steps before the encoder and after the decoder.
    """

    codec: str
    options: Mapping[str, Any]
    qualities: tuple[float, ...]
    before: tuple[Step, ...] = ()
    after: tuple[Step, ...] = ()

    def settings(self, quality: float) -> str:
        """All settings as words, in order of application."""
        words = [step.words() for step in self.before]
        words += [f"{name}={value}" for name, value in self.options.items()] + [f"quality={quality:g}"]
        return " ".join(words + [step.words() for step in self.after])

    def distorted(self, photograph: Pixels, quality: float) -> tuple[Pixels, int]:
        """Make one image of the ladder: pixels (H, W, 3), uint8, and the size of the coded file in bytes."""
        image = PIL.Image.fromarray(photograph)
        size = image.size
        for step in self.before:
            image = step.apply(image, size)
        data = encode_image(np.asarray(image), self.codec, quality, **self.options)
        image = PIL.Image.fromarray(decode_image(data, self.codec))
        for step in self.after:
            image = step.apply(image, size)
        return np.array(image), len(data)


class _Draw:
    """Random choices."""

    def __init__(self, generator: np.random.Generator) -> None:
        self.generator = generator

    def one(self, values: Sequence[Any]) -> Any:
        return values[int(self.generator.integers(len(values)))]

    def real(self, limits: tuple[float, float], decimals: int) -> float:
        return round(float(self.generator.uniform(*limits)), decimals)

    def whole(self, limits: tuple[int, int]) -> int:
        return int(self.generator.integers(limits[0], limits[1] + 1))

    def shrink(self) -> Shrink:
        return Shrink(self.real(SHRUNK, 3), self.one(list(KERNELS)))

    def plain(self, name: str, levels: int, limits: tuple[float, float] | None = None) -> WorldLadder:
        codec = CODECS[name]
        choices = codec.choices if codec.world_choices is None else codec.world_choices
        options = {option: self.one(values) for option, values in choices.items()}
        start = float(self.generator.random())
        positions = [(level + start) / levels for level in range(levels)]
        return WorldLadder(name, options, tuple(codec.quality_at(at, limits or codec.everyday) for at in positions))


def draw_world_ladders(
    generator: np.random.Generator, codecs: Sequence[str], pipelines: Sequence[str], levels: int
) -> list[WorldLadder]:
    """Draw a plain ladder for every codec, then one for each pipeline."""
    draw = _Draw(generator)
    ladders = [draw.plain(name, levels) for name in codecs]
    return ladders + [_draw_pipeline(draw, pipeline, codecs, levels) for pipeline in pipelines]


def _draw_pipeline(draw: _Draw, pipeline: str, codecs: Sequence[str], levels: int) -> WorldLadder:
    plain = draw.plain("jpeg", levels, SOCIAL) if pipeline == "social" else draw.plain(draw.one(codecs), levels)
    before: tuple[Step, ...] = ()
    after: tuple[Step, ...] = ()
    if pipeline == "social":
        before = (draw.shrink(), Jpeg(draw.whole(SOCIAL), draw.one(("4:2:0", "4:4:4")), draw.one(list(TABLES))))
        if draw.generator.random() < 0.5:
            before = (*before, draw.shrink())
        after = (Enlarge(draw.one(ENLARGING)),)
    elif pipeline == "scaled":
        before, after = (draw.shrink(),), (Enlarge(draw.one(ENLARGING)),)
    elif pipeline == "denoised":
        before = (Denoise(draw.one((0.0, draw.real(GAUSSIAN, 2)))),)
    else:
        steps = (Sharpen(draw.real(UNSHARP_RADIUS, 2), draw.whole(UNSHARP_PERCENT)),)
        before, after = (steps, ()) if draw.generator.random() < 0.5 else ((), steps)
    return WorldLadder(plain.codec, plain.options, plain.qualities, before, after)


def draw_near_pairs(
    generator: np.random.Generator, images: Sequence[DistortedImage], pairs: int, near: float
) -> list[tuple[int, int]]:
    """Draw at most ``pairs`` pairs of distorted images of near quality: numbers of a and of b.

    The scores of the two images, in log-odds, differ by at most ``near``. A third of the pairs come from one ladder if
    it has as many, and the others from two. Images with equal pixels make no pair. The order of a and b is random.
    """
    one: list[tuple[int, int]] = []
    two: list[tuple[int, int]] = []
    for (i, first), (j, second) in itertools.combinations(enumerate(images), 2):
        if first.sha256 != second.sha256 and abs(first.score - second.score) <= near:
            (one if first.ladder == second.ladder else two).append((i, j))
    chosen: list[tuple[int, int]] = []
    for candidates, largest in ((one, pairs // SAME_LADDER), (two, pairs)):
        order = generator.permutation(len(candidates))[: min(largest, pairs - len(chosen))]
        swapped = generator.random(len(order)) < 0.5
        for index, swap in zip(order, swapped, strict=True):
            i, j = candidates[int(index)]
            chosen.append((j, i) if swap else (i, j))
    return chosen
