"""Which of two images a metric prefers: its value for b minus that for a.

Conventions are those of `fastiqa compare`: PSNR over RGB, SSIM and MS-SSIM on the rounded grey of 8-bit images.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from fastiqa.metrics.luma import luma
from fastiqa.metrics.psnr import psnr
from fastiqa.metrics.ssim import ms_ssim, ssim

Preference = Callable[[Tensor, Tensor, Tensor], Tensor]


def _psnr(ref: Tensor, a: Tensor, b: Tensor) -> Tensor:
    of_a, of_b = psnr(ref, a), psnr(ref, b)
    return (of_b - of_a).where(of_a != of_b, 0.0)  # both infinite: a tie


def _ssim(ref: Tensor, a: Tensor, b: Tensor) -> Tensor:
    x, y, z = (luma(image.double(), bit_depth=8) for image in (ref, a, b))
    return ssim(x, z) - ssim(x, y)


def _ms_ssim(ref: Tensor, a: Tensor, b: Tensor) -> Tensor:
    x, y, z = (luma(image.double(), bit_depth=8) for image in (ref, a, b))
    return ms_ssim(x, z, method="wtd_sum") - ms_ssim(x, y, method="wtd_sum")


# name -> preference of RGB images (N, 3, H, W) in [0, 1], (N,); ssim wants sides of 11 pixels, ms-ssim of 161
PREFERENCES: dict[str, Preference] = {"psnr": _psnr, "ssim": _ssim, "ms-ssim": _ms_ssim}
