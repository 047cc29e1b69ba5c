"""Ladders of the profile "classic": rows of distorted images of one photograph that differ in the quality alone.

    photograph → shrunk, once or twice → encoded → decoded → enlarged to its size → blurred → noise added

Every codec gets a plain ladder. Each extra ("resize", "blur", "noise") adds one, with a random codec. Blur and noise
come after the decoder, as in a display or a transmission. Before the encoder, a lower quality would remove some of the
noise, and the higher quality would no longer be closer. A ladder's qualities are equally spaced from a random start:
all settings occur, and neighbours are never nearly the same.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import PIL.Image
from numpy.typing import NDArray
from PIL import ImageFilter

from fastiqa.data.images.codecs import CODECS, decode_image, encode_image

Pixels = NDArray[np.uint8]

FILTERS = {
    "bilinear": PIL.Image.Resampling.BILINEAR,
    "bicubic": PIL.Image.Resampling.BICUBIC,
    "lanczos": PIL.Image.Resampling.LANCZOS,
}
SHRUNK = (0.5, 0.9)  # factor per shrinking
BLUR = (0.5, 2.0)  # standard deviation in pixels
NOISE = (2.0, 10.0)  # standard deviation in 8-bit code values
SIZE_RATIO = 2.0


@dataclass(frozen=True)
class Ladder:
    """The settings that all images of a ladder share, and their qualities.

    Attributes:
        codec, options: encoder and its options.
        qualities: in increasing order.
        shrinkings: factor and filter name of each shrinking before the encoder.
        blur, noise: standard deviations after the decoder, in pixels and in 8-bit code values; 0 for none.
        noise_seed: seed of the noise field that all images of the ladder share.
    """

    codec: str
    options: Mapping[str, Any]
    qualities: tuple[float, ...]
    shrinkings: tuple[tuple[float, str], ...] = ()
    blur: float = 0.0
    noise: float = 0.0
    noise_seed: int = field(default=0, repr=False)

    def settings(self, quality: float) -> str:
        """All settings as words, in order of application."""
        words = [f"shrink={factor}:{name}" for factor, name in self.shrinkings]
        words += [f"{name}={value}" for name, value in self.options.items()] + [f"quality={quality:g}"]
        words += [f"{name}={value}" for name, value in (("blur", self.blur), ("noise", self.noise)) if value]
        return " ".join(words)


def draw_ladders(
    generator: np.random.Generator, codecs: Sequence[str], extras: Sequence[str], levels: int
) -> list[Ladder]:
    """Draw a plain ladder for every codec, then one for each extra."""
    ladders = [_draw_ladder(generator, codec, "", levels) for codec in codecs]
    for extra in extras:
        codec = codecs[int(generator.integers(len(codecs)))]
        ladders.append(_draw_ladder(generator, codec, extra, levels))
    return ladders


def _draw_ladder(generator: np.random.Generator, name: str, extra: str, levels: int) -> Ladder:
    codec = CODECS[name]
    options = {option: values[int(generator.integers(len(values)))] for option, values in codec.choices.items()}
    start = generator.random()
    qualities = tuple(codec.quality_at((level + start) / levels) for level in range(levels))
    if extra == "resize":
        times = int(generator.integers(1, 3))
        names = list(FILTERS)
        shrinkings = tuple(
            (round(float(generator.uniform(*SHRUNK)), 3), names[int(generator.integers(len(names)))])
            for _ in range(times)
        )
        return Ladder(name, options, qualities, shrinkings=shrinkings)
    if extra == "blur":
        return Ladder(name, options, qualities, blur=round(float(generator.uniform(*BLUR)), 2))
    if extra == "noise":
        noise, seed = round(float(generator.uniform(*NOISE)), 2), int(generator.integers(2**32))
        return Ladder(name, options, qualities, noise=noise, noise_seed=seed)
    return Ladder(name, options, qualities)


def distorted(photograph: Pixels, ladder: Ladder, quality: float) -> tuple[Pixels, int]:
    """Make one image of a ladder: pixels (H, W, 3), uint8, and the size of the coded file in bytes."""
    height, width = photograph.shape[:2]
    image = PIL.Image.fromarray(photograph)
    for factor, name in ladder.shrinkings:
        size = (max(1, round(image.width * factor)), max(1, round(image.height * factor)))
        image = image.resize(size, FILTERS[name])
    data = encode_image(np.asarray(image), ladder.codec, quality, **ladder.options)
    image = PIL.Image.fromarray(decode_image(data, ladder.codec))
    if ladder.shrinkings:
        image = image.resize((width, height), PIL.Image.Resampling.BICUBIC)
    if ladder.blur:
        image = image.filter(ImageFilter.GaussianBlur(ladder.blur))
    pixels: Pixels = np.array(image)
    if ladder.noise:
        noise = np.random.default_rng(ladder.noise_seed).normal(0, ladder.noise, pixels.shape)
        pixels = np.rint(pixels + noise).clip(0, 255).astype(np.uint8)
    return pixels, len(data)


@dataclass(frozen=True)
class DistortedImage:
    """The record of a distorted image.

    Attributes:
        file: name of its PNG in the photograph's folder.
        sha256: SHA-256 of that file, in hexadecimal.
        codec, settings: the codec, and all settings as words.
        ladder: number of its ladder.
        quality: on the codec's axis.
        bytes: size of the coded file.
        score: by the labelling metric; higher is closer. In the profile "world" the mean of the metrics' scores, each
            divided by its scale: log-odds.
        scores: in the profile "world" the score by each metric, else None.
    """

    file: str
    sha256: str
    codec: str
    settings: str
    ladder: int
    quality: float
    bytes: int
    score: float
    scores: Mapping[str, float] | None = None


def draw_pairs(
    generator: np.random.Generator, images: Sequence[DistortedImage], pairs: int
) -> list[tuple[int, int, str]]:
    """Draw at most ``pairs`` pairs of distorted images, half by each rule: (number of a, number of b, rule).

    A "quality" pair comes from one ladder. A "metric" pair comes from two ladders, with coded files that differ in size
    by at most a factor of two: a choice between codecs at one budget, which the labelling metric does not influence.
    Images with equal pixels make no pair. The order of a and b is random.
    """
    candidates: dict[str, list[tuple[int, int]]] = {"quality": [], "metric": []}
    for (i, first), (j, second) in itertools.combinations(enumerate(images), 2):
        if first.sha256 == second.sha256:
            continue
        if first.ladder == second.ladder:
            candidates["quality"].append((i, j))
        elif max(first.bytes, second.bytes) <= SIZE_RATIO * min(first.bytes, second.bytes):
            candidates["metric"].append((i, j))
    chosen = []
    for rule, count in (("quality", pairs // 2), ("metric", pairs - pairs // 2)):
        order = generator.permutation(len(candidates[rule]))[:count]
        swapped = generator.random(len(order)) < 0.5
        for index, swap in zip(order, swapped, strict=True):
            i, j = candidates[rule][int(index)]
            chosen.append((j, i, rule) if swap else (i, j, rule))
    return chosen
