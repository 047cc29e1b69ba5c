"""Full-reference metrics by name, and which of two images each prefers: its value for b minus that for a.

Conventions are those of `fastiqa compare`: PSNR over RGB, SSIM and MS-SSIM on rounded grey.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from fastiqa.metrics.luma import luma
from fastiqa.metrics.psnr import psnr
from fastiqa.metrics.ssim import ms_ssim, ssim

FullReference = Callable[[Tensor, Tensor, int], Tensor]
Preference = Callable[[Tensor, Tensor, Tensor], Tensor]


def _psnr(ref: Tensor, image: Tensor, bit_depth: int) -> Tensor:
    return psnr(ref, image)


def _ssim(ref: Tensor, image: Tensor, bit_depth: int) -> Tensor:
    return ssim(*(luma(x.double(), bit_depth=bit_depth) for x in (ref, image)))


def _ms_ssim(ref: Tensor, image: Tensor, bit_depth: int) -> Tensor:
    return ms_ssim(*(luma(x.double(), bit_depth=bit_depth) for x in (ref, image)), method="wtd_sum")


def _preference(metric: FullReference) -> Preference:
    def prefers(ref: Tensor, a: Tensor, b: Tensor) -> Tensor:
        of_a, of_b = metric(ref, a, 8), metric(ref, b, 8)
        return (of_b - of_a).where(of_a != of_b, 0.0)  # PSNR of both infinite: a tie

    return prefers


# name -> score of RGB images (N, 3, H, W) in [0, 1] beside their reference, whose grey is rounded to that many bits:
# (N,), higher is better; ssim wants sides of 11 pixels, ms-ssim of 161
FULL_REFERENCE: dict[str, FullReference] = {"psnr": _psnr, "ssim": _ssim, "ms-ssim": _ms_ssim}

# name -> preference of RGB images of 8 bits, (N, 3, H, W) in [0, 1], (N,)
PREFERENCES: dict[str, Preference] = {name: _preference(metric) for name, metric in FULL_REFERENCE.items()}
