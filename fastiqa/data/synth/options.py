"""SynthOptions, WorldOptions, Labeller, Scorer: with the photographs they decide every byte of ``fastiqa data synth``.

SynthOptions are the profile "classic", WorldOptions the profile "world" (`fastiqa.data.synth.world`).

A triplet is a photograph and two distorted images of it; its label is the probability that b is closer.

    quality    both images differ in the codec's quality alone: the higher quality is closer, label 0 or 1
    metric     any other pair: p(b closer) = 1 / (1 + exp(−(score(b) − score(a)) / scale)), by a labelling metric

In the profile "world" the rule is "metric" for all pairs, and the label is the mean of several metrics' probabilities.

The labelling metrics are those of ``fastiqa.evaluation.labellers``: data sets know no metrics, the caller brings them.
"""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean, pstdev
from typing import Any, ClassVar, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastiqa.data.images.codecs import CLASSIC, CODECS, available

EXTRAS = ("resize", "blur", "noise")
PIPELINES = ("social", "scaled", "denoised", "sharpened")
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
        return logistic((score_b - score_a) / self.scale)


def logistic(log_odds: float) -> float:
    """1 / (1 + exp(−x)), in a form that cannot overflow."""
    return 0.5 + 0.5 * math.tanh(log_odds / 2)


class Written(NamedTuple):
    """An image on disk and in memory: its PNG, and its pixels (H, W, 3), uint8."""

    path: Path
    pixels: NDArray[np.uint8]


@dataclass(frozen=True)
class Scorer:
    """A metric of the profile "world", which scores several images of one reference together.

    Attributes:
        scores: (reference, distorted images) -> scores, higher is better; a function of a module.
        scale: the difference of scores that has odds of e to 1.
        implementation: () -> package and version, which the record of every photograph keeps. Raises SynthError with
            the command that installs it, if it is missing.
    """

    scores: Callable[[Written, Sequence[Written]], list[float]]
    scale: float
    implementation: Callable[[], str]


def soft_label(log_odds: Sequence[float]) -> tuple[float, float]:
    """The probability that b is closer, and the weight of that label.

    Args:
        log_odds: for each metric (score(b) − score(a)) / scale.

    Returns:
        The mean of the metrics' probabilities, and 1 − 2 × their standard deviation: 1 where all agree, 0 where half
        are sure of a and half of b.
    """
    probabilities = [logistic(value) for value in log_odds]
    return fmean(probabilities), 1 - 2 * pstdev(probabilities)


@dataclass(frozen=True)
class SynthOptions:
    """Options of :func:`fastiqa.data.synth.synthesis.synthesize`.

    Attributes:
        seed: 0 or more; with a photograph's content it decides all random choices for that photograph.
        codecs: names in :mod:`fastiqa.data.images.codecs`, by default those of Pillow; each gets a ladder of qualities.
        extras: some of "resize", "blur", "noise"; each adds a ladder with a random codec.
        levels: qualities in a ladder, at least 2.
        pairs: maximum of triplets per photograph, half labelled by quality and half by the metric; at least 2.
        metric: name of the labeller, "ms-ssim" or "ssimulacra2".
        max_size: larger photographs are cropped at a random place to this many pixels in height and width, at least
            161; None keeps them whole.
        val, test: shares of the photographs, 0 or more, together less than 1; a share above 0 gets at least one.
        split_seed: seed of the split; None takes `seed`. Sets of other seeds with one split_seed have the same split.

    Raises:
        SynthError: an option out of range.
    """

    known_extras: ClassVar[tuple[str, ...]] = EXTRAS
    repeated_codecs: ClassVar[bool] = False

    seed: int = 0
    codecs: tuple[str, ...] = CLASSIC
    extras: tuple[str, ...] = ("resize",)
    levels: int = 4
    pairs: int = 40
    metric: str = "ms-ssim"
    max_size: int | None = None
    val: float = 0.15
    test: float = 0.15
    split_seed: int | None = None

    def __post_init__(self) -> None:
        for name, seed in (("seed", self.seed), ("split_seed", self.split_seed or 0)):
            if seed < 0:
                raise SynthError(f"{name}: got {seed}, want 0 or more")
        if not self.codecs or (not self.repeated_codecs and len(set(self.codecs)) < len(self.codecs)):
            raise SynthError(
                f"codecs: got {self.codecs}, want at least one{'' if self.repeated_codecs else ', each once'}"
            )
        if set(self.extras) - set(self.known_extras) or len(set(self.extras)) < len(self.extras):
            raise SynthError(f"extras: got {self.extras}, want some of {', '.join(self.known_extras)}, each once")
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


@dataclass(frozen=True)
class WorldOptions(SynthOptions):
    """The profile "world" of :func:`fastiqa.data.synth.synthesis.synthesize`: more codecs, pipelines, near qualities.

    Attributes:
        codecs: by default all but HEIC, which needs pillow-heif. A codec that stands here twice gets two ladders, each
            with options of its own.
        extras: some of "social", "scaled", "denoised", "sharpened"; each adds a ladder: `fastiqa.data.synth.world`.
        levels, pairs, max_size: as in SynthOptions, with other defaults. A third of the pairs differ in quality alone.
        metrics: names of the scorers whose mean is the label; `metric` is not used.
        near: largest mean of the metrics' log-odds in a pair, above 0. 3 keeps choices whose probability is about 0.05
            to 0.95.

    Raises:
        SynthError: an option out of range.
    """

    known_extras: ClassVar[tuple[str, ...]] = PIPELINES
    repeated_codecs: ClassVar[bool] = True

    codecs: tuple[str, ...] = tuple(name for name in CODECS if name != "heic")
    extras: tuple[str, ...] = PIPELINES
    levels: int = 3
    pairs: int = 200
    max_size: int | None = 1024
    metrics: tuple[str, ...] = ("ssimulacra2", "ms-ssim", "lpips")
    near: float = 3.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.metrics or len(set(self.metrics)) < len(self.metrics):
            raise SynthError(f"metrics: got {self.metrics}, want at least one, each once")
        if not self.near > 0:  # true for NaN too
            raise SynthError(f"near: got {self.near}, want more than 0")

    def scorers_of(self, scorers: Mapping[str, Scorer]) -> dict[str, Scorer]:
        """The scorers named by `metrics`. Raises SynthError for an unknown name."""
        for name in self.metrics:
            if name not in scorers:
                raise SynthError(f"metric: got {name!r}, want one of {', '.join(scorers)}")
        return {name: scorers[name] for name in self.metrics}


def settings_of(options: SynthOptions) -> dict[str, Any]:
    """The options as they stand in synth.json; the profile "world" names itself, and no split_seed is left out."""
    unused = {"metric"} if isinstance(options, WorldOptions) else set()
    if options.split_seed is None:
        unused.add("split_seed")
    profile = {"profile": "world"} if isinstance(options, WorldOptions) else {}
    return profile | {name: value for name, value in asdict(options).items() if name not in unused}
