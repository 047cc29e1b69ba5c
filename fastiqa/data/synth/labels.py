"""Which of two distorted images of a photograph is closer to it: the labels of synthetic triplets.

    quality    both from one ladder (one codec, all settings equal but the quality): the higher quality, 0 or 1
    metric     any other pair: p(b closer) = 1 / (1 + exp(−(score(b) − score(a)) / scale))

A metric errs, and the scale says by how much: it is the difference of scores that carries odds of e to 1. People's
scores of the two images are taken to be the metric's plus independent normal errors of standard deviation s. Then
p = Φ(d / (√2 s)) for a difference d of scores (Thurstone's case V), and Φ(z) is 1 / (1 + exp(−1.702 z)) to within
0.01, so that scale = √2 s / 1.702.

    ssimulacra2    4.65 points. Its authors report a mean absolute error of 4.47 points against opinion scores from 0
                   to 100 of 49 photographs that they held out (CID22, README of July 2022): s = 4.47 √(π/2) = 5.60.
                   A grade of quality, 20 points, is then 99 to 1, and 5 points 75 to 25.
    ms-ssim        1.25 decibels of −10 log10(1 − MS-SSIM), the axis on which codecs are compared, because MS-SSIM
                   itself gathers near 1. No such error is published for it. The scale is the most likely one (of least
                   cross-entropy) where SSIMULACRA2's probabilities are the truth: 1.30 on the 813 plain pairs (1.17 to
                   1.44 in 95 % of bootstraps over photographs) and 1.22 with the 423 resized ones of
                   ``fastiqa data synth --metric ssimulacra2 --max-size 384 --pairs 200 --blur --noise`` on 28
                   photographs. The two metrics prefer the same image in 89 % of these 1236, and in 98 % of those whose
                   SSIMULACRA2 differs by more than 10.

The rule of quality needs no metric: both prefer the higher quality in all 1176 pairs of its kind in that run, plain,
resized, blurred and noisy.

SSIMULACRA2 is a Python port (PyPI ``ssimulacra2``, BSD-3). MS-SSIM runs over R, G and B, and so sees what subsampled
chroma loses, which it would not on grey; its scores end at 50 dB, near equality.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from fastiqa.data.images.reading import read_image
from fastiqa.metrics import ms_ssim
from fastiqa.metrics.ms_ssim import LARGEST_SIDE_TOO_SMALL

SMALLEST_SIDE = LARGEST_SIDE_TOO_SMALL + 1
LEAST_LOSS = 1e-5  # 50 dB


@dataclass(frozen=True)
class LabelMetric:
    """A metric that labels.

    Attributes:
        score: of (reference file, distorted file); higher is better.
        scale: difference of scores with odds of e to 1.
        package: that computes it, or None where fastiqa does.
    """

    score: Callable[[Path, Path], float]
    scale: float
    package: str | None = None

    def probability(self, score_a: float, score_b: float) -> float:
        """The probability in [0, 1] that b is closer, of the scores of a and b."""
        return 0.5 + 0.5 * math.tanh((score_b - score_a) / self.scale / 2)  # the logistic function; exp would overflow


def ms_ssim_db(reference: Path, distorted: Path) -> float:
    """−10 log10(1 − MS-SSIM) of two RGB files, at most 50 dB."""
    # in float32: at 1024×640 it took 0.24 s and float64 1.4 s; at 33 dB, the best seen, they differ by some 0.001 dB
    x, y = (read_image(path).tensor() for path in (reference, distorted))
    return -10 * math.log10(max(1 - float(ms_ssim(x, y)), LEAST_LOSS))


def ssimulacra2(reference: Path, distorted: Path) -> float:
    """SSIMULACRA2 of two RGB files: 100 where they are equal, 90 visually lossless, 30 poor, without a lower bound."""
    return float(importlib.import_module("ssimulacra2").compute_ssimulacra2(str(reference), str(distorted)))


METRICS = {
    "ms-ssim": LabelMetric(ms_ssim_db, 1.25),
    "ssimulacra2": LabelMetric(ssimulacra2, 4.65, "ssimulacra2"),
}
