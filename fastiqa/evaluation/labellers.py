"""LABELLERS: the metrics that label synthetic triplets, with the scale of their errors.

A labeller turns a difference of scores into the probability that b is closer: see `fastiqa.data.synth.options`. The
scale is the difference with odds of e to 1. The model: a person's score is the metric's score plus a normal error of
standard deviation s, independent for both images. Then p = Φ(d / (√2 s)) for a score difference d (Thurstone's
case V). Φ(z) equals 1 / (1 + exp(−1.702 z)) to within 0.01, hence scale = √2 s / 1.702.

    ssimulacra2    4.65 points. Its authors report a mean absolute error of 4.47 points on 49 held-out photographs with
                   opinion scores from 0 to 100 (CID22, README of July 2022): s = 4.47 √(π/2) = 5.60. A grade of
                   quality, 20 points, then has odds of 99 to 1, and 5 points have 75 to 25.
    ms-ssim        1.25 dB of −10 log10(1 − MS-SSIM). Codecs are compared on this axis, since MS-SSIM itself crowds
                   near 1. No error is published for it. The scale has the least cross-entropy against SSIMULACRA2's
                   probabilities: 1.30 on 813 plain pairs (1.17 to 1.44 in 95 % of bootstraps over photographs), and
                   1.22 with the 423 resized pairs, from ``fastiqa data synth --metric ssimulacra2 --max-size 384
                   --pairs 200 --blur --noise`` on 28 photographs. The two metrics prefer the same image in 89 % of
                   these 1236 pairs, and in 98 % of those with SSIMULACRA2 more than 10 apart.

In that run both metrics preferred the higher quality in all 1176 pairs that differ in quality alone: plain, resized,
blurred and noisy.

SSIMULACRA2 is a Python port (PyPI ``ssimulacra2``, BSD-3). MS-SSIM runs over R, G and B, so it sees the loss of
subsampled chroma, which grey would hide. Its scores end at 50 dB, near equality.
"""

from __future__ import annotations

import importlib
import math
from pathlib import Path

from fastiqa.data.images.reading import read_image
from fastiqa.data.synth.options import Labeller
from fastiqa.metrics import ms_ssim

LEAST_LOSS = 1e-5  # 50 dB


def ms_ssim_db(reference: Path, distorted: Path) -> float:
    """−10 log10(1 − MS-SSIM) of two RGB files of one size, both sides at least 161 pixels: at most 50 dB."""
    # float32 takes 0.24 s at 1024×640 and float64 1.4 s; at 33 dB, the best seen, they differ by some 0.001 dB
    x, y = (read_image(path).tensor() for path in (reference, distorted))
    return -10 * math.log10(max(1 - float(ms_ssim(x, y)), LEAST_LOSS))


def ssimulacra2(reference: Path, distorted: Path) -> float:
    """SSIMULACRA2 of two RGB files: 100 for equal images, 90 for visually lossless, 30 for poor; no lower bound."""
    return float(importlib.import_module("ssimulacra2").compute_ssimulacra2(str(reference), str(distorted)))


LABELLERS = {
    "ms-ssim": Labeller(ms_ssim_db, 1.25),
    "ssimulacra2": Labeller(ssimulacra2, 4.65, "ssimulacra2"),
}
