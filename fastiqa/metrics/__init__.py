"""Full-reference metrics and correlations. Metrics are differentiable, give one score per image, in at least float32.

`psnr`, `ssim` and `ms_ssim` take two batches (N, C, H, W) in [0, data_range] and return (N,); higher is better. `lpips`
also needs weights from your files; lower is better. `PSNR`, `SSIM`, `MSSSIM` and `LPIPS` are the modules of these
functions. `create_metric` makes one by name, and `MetricLoss` turns one into a loss. `fastiqa.metrics.presets` holds
the conventions of other programs. `srcc`, `krcc`, `plcc` and `rmse` compare predictions (N,) with people's scores.
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
