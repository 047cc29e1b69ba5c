"""Full-reference metrics: one score per image, differentiable, in float32 at least; and how well scores are predicted.

`psnr`, `ssim` and `ms_ssim` take two batches (N, C, H, W) in [0, data_range] and return (N,); higher is better. `lpips`
takes weights from files of yours as well; lower is better. `PSNR`, `SSIM`, `MSSSIM` and `LPIPS` are the same as
modules, `create_metric` makes one by name, `MetricLoss` makes a loss of one, and `fastiqa.metrics.presets` has the
conventions of other programs. `srcc`, `krcc`, `plcc` and `rmse` compare predictions (N,) with the scores of people.
"""

from __future__ import annotations

from fastiqa.metrics._metric import Metric, MetricLoss
from fastiqa.metrics.correlation import krcc, plcc, rmse, srcc
from fastiqa.metrics.lpips import LPIPS, lpips
from fastiqa.metrics.luma import luma
from fastiqa.metrics.ms_ssim import MSSSIM, ms_ssim
from fastiqa.metrics.psnr import PSNR, psnr
from fastiqa.metrics.registry import create_metric, list_metrics
from fastiqa.metrics.ssim import SSIM, ssim

__all__ = [
    "LPIPS",
    "MSSSIM",
    "PSNR",
    "SSIM",
    "Metric",
    "MetricLoss",
    "create_metric",
    "krcc",
    "list_metrics",
    "lpips",
    "luma",
    "ms_ssim",
    "plcc",
    "psnr",
    "rmse",
    "srcc",
    "ssim",
]
