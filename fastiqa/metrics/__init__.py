"""Full-reference metrics: one score per image, differentiable, in float32 at least.

Every function takes two batches (N, C, H, W) in [0, data_range] and returns (N,); higher is better.
"""

from __future__ import annotations

from fastiqa.metrics.luma import luma
from fastiqa.metrics.psnr import psnr
from fastiqa.metrics.ssim import ms_ssim, ssim

__all__ = ["luma", "ms_ssim", "psnr", "ssim"]
