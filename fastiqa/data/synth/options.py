"""SynthOptions and Labeller: with the photographs they decide every byte that ``fastiqa data synth`` writes.

A triplet is a photograph and two distorted images of it; its label is the probability that b is closer.

    quality    both images differ in the codec's quality alone: the higher quality is closer, label 0 or 1
    metric     any other pair: p(b closer) = 1 / (1 + exp(−(score(b) − score(a)) / scale)), by a labelling metric

The labelling metrics are those of ``fastiqa.evaluation.labellers``: data sets know no metrics, the caller brings them.
"""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from fastiqa.data.images.codecs import CODECS, available

EXTRAS = ("resize", "blur", "noise")
SMALLEST_SIDE = 161  # pixels: MS-SSIM, which labels by default, needs an 11×11 window at the fifth scale


class SynthError(ValueError):
    """Triplets cannot be made. The message is one line: the option or file, and the reason."""


@dataclass(frozen=True)
class Labeller:
    """A metric that labels pairs.

    Attributes:
        score: (reference file, distorted file) -> score, higher is better; a function of a module, which worker
            processes import by name.
        scale: the difference of scores that has odds of e to 1.
        package: the package that computes it; None for fastiqa itself.
    """

    score: Callable[[Path, Path], float]
    scale: float
    package: str | None = None

    def probability(self, score_a: float, score_b: float) -> float:
        """The probability in [0, 1] that b is closer, from the scores of a and b."""
        return 0.5 + 0.5 * math.tanh((score_b - score_a) / self.scale / 2)  # the logistic function; exp would overflow


@dataclass(frozen=True)
class SynthOptions:
    """Options of :func:`fastiqa.data.synth.synthesis.synthesize`.

    Attributes:
        seed: 0 or more; with a photograph's content it decides all random choices for that photograph.
        codecs: names in :mod:`fastiqa.data.images.codecs`; each gets a ladder of qualities.
        extras: some of "resize", "blur", "noise"; each adds a ladder with a random codec.
        levels: qualities in a ladder, at least 2.
        pairs: maximum of triplets per photograph, half labelled by quality and half by the metric; at least 2.
        metric: name of the labeller, "ms-ssim" or "ssimulacra2".
        max_size: larger photographs are cropped at a random place to this many pixels in height and width, at least
            161; None keeps them whole.
        val, test: shares of the photographs, 0 or more, together less than 1; a share above 0 gets at least one.

    Raises:
        SynthError: an option out of range.
    """

    seed: int = 0
    codecs: tuple[str, ...] = tuple(CODECS)
    extras: tuple[str, ...] = ("resize",)
    levels: int = 4
    pairs: int = 40
    metric: str = "ms-ssim"
    max_size: int | None = None
    val: float = 0.15
    test: float = 0.15

    def __post_init__(self) -> None:
        if self.seed < 0:
            raise SynthError(f"seed: got {self.seed}, want 0 or more")
        if not self.codecs or len(set(self.codecs)) < len(self.codecs):
            raise SynthError(f"codecs: got {self.codecs}, want at least one, each once")
        if set(self.extras) - set(EXTRAS) or len(set(self.extras)) < len(self.extras):
            raise SynthError(f"extras: got {self.extras}, want some of {', '.join(EXTRAS)}, each once")
        for name in ("levels", "pairs"):
            if getattr(self, name) < 2:
                raise SynthError(f"{name}: got {getattr(self, name)}, want 2 or more")
        if self.max_size is not None and self.max_size < SMALLEST_SIDE:
            raise SynthError(f"max_size: got {self.max_size}, want {SMALLEST_SIDE} or more")
        if not (self.val >= 0 and self.test >= 0 and self.val + self.test < 1):
            raise SynthError(f"val, test: got {self.val}, {self.test}, want shares whose sum is less than 1")
        try:
            for codec in self.codecs:
                available(codec)
        except ValueError as error:
            raise SynthError(str(error)) from None

    def labeller_of(self, labellers: Mapping[str, Labeller]) -> Labeller:
        """The labeller named by `metric`. Raises SynthError for an unknown name or a missing package."""
        if self.metric not in labellers:
            raise SynthError(f"metric: got {self.metric!r}, want one of {', '.join(labellers)}")
        labeller = labellers[self.metric]
        if labeller.package is not None and importlib.util.find_spec(labeller.package) is None:
            raise SynthError(f"metric: {self.metric} needs {labeller.package}: pip install {labeller.package}")
        return labeller
