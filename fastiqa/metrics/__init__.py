"""Full-reference metrics: one score per image, differentiable, in float32 at least; and how well scores are predicted.

`psnr`, `ssim` and `ms_ssim` take two batches (N, C, H, W) in [0, data_range] and return (N,); higher is better. `srcc`,
`krcc`, `plcc` and `rmse` compare predictions (N,) with the scores of people.
"""

from __future__ import annotations

from fastiqa.metrics.correlation import krcc, plcc, rmse, srcc
from fastiqa.metrics.luma import luma
from fastiqa.metrics.psnr import psnr
from fastiqa.metrics.ssim import ms_ssim, ssim

__all__ = ["krcc", "luma", "ms_ssim", "plcc", "psnr", "rmse", "srcc", "ssim"]
