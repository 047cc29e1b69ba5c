"""Full-reference metrics by name, and their preferences between two images: the value for b minus the value for a.

The conventions are those of `fastiqa compare`: PSNR over RGB, SSIM and MS-SSIM on rounded grey, LPIPS over RGB, negated
so that higher is better.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from fastiqa.evaluation import frame_analytics
from fastiqa.metrics.lpips import LPIPS
from fastiqa.metrics.luma import luma
from fastiqa.metrics.ms_ssim import ms_ssim
from fastiqa.metrics.psnr import psnr
from fastiqa.metrics.ssim import ssim

PUBLISHED = "published"  # in the place of LPIPS's file: the weights of the extra `weights`

FullReference = Callable[[Tensor, Tensor, int], Tensor]


def _psnr(ref: Tensor, image: Tensor, bit_depth: int) -> Tensor:
    return psnr(ref, image)


def _ssim(ref: Tensor, image: Tensor, bit_depth: int) -> Tensor:
    return ssim(*(luma(x.double(), bit_depth=bit_depth) for x in (ref, image)))


def _ms_ssim(ref: Tensor, image: Tensor, bit_depth: int) -> Tensor:
    return ms_ssim(*(luma(x.double(), bit_depth=bit_depth) for x in (ref, image)), method="wtd_sum")


def load_lpips(file: str | os.PathLike[str]) -> LPIPS:
    """Load an LPIPS in float32.

    Args:
        file: from `fastiqa.save_model`, or `PUBLISHED` for AlexNet's published weights of the extra `weights`.

    Raises: ValueError for another model; OSError; ImportError without the extra.
    """
    if os.fspath(file) == PUBLISHED:
        return LPIPS("alex").eval()
    from fastiqa.models import load_model  # here, since it loads every network

    model = load_model(file)
    if not isinstance(model, LPIPS):
        raise ValueError(f"{file}: holds a {type(model).__name__}, want an LPIPS")
    return model.float()


def negative_lpips(model: LPIPS) -> FullReference:
    """An LPIPS as a metric like those in `FULL_REFERENCE`: negated, in float32."""
    return lambda ref, image, bit_depth: -model(ref.float(), image.float())


@dataclass(frozen=True)
class Preference:
    """A metric of 8-bit images (N, 3, H, W), RGB in [0, 1], and its preference: its value for b minus that for a."""

    metric: FullReference

    def score(self, ref: Tensor, image: Tensor) -> Tensor:
        """The metric's values of images, (N,)."""
        return self.metric(ref, image, 8)

    @staticmethod
    def difference(of_a: Tensor, of_b: Tensor) -> Tensor:
        """The preference between two values: 0, a tie, for a PSNR of both infinite."""
        return (of_b - of_a).where(of_a != of_b, 0.0)


# name -> metric: (reference, images, bit depth of the rounded grey), RGB (N, 3, H, W) in [0, 1] -> scores (N,), higher
# is better; sides of at least 11 pixels for ssim, 161 for ms-ssim
FULL_REFERENCE: dict[str, FullReference] = {"psnr": _psnr, "ssim": _ssim, "ms-ssim": _ms_ssim}


def _frame_analytics(metric: str, lower_is_better: bool = False) -> FullReference:
    def score(ref: Tensor, image: Tensor, bit_depth: int) -> Tensor:
        value = frame_analytics.scores(metric, ref, image, f"--metric: {metric}")
        return -value if lower_is_better else value

    return score


def _ms_ssim_rgb(ref: Tensor, image: Tensor, bit_depth: int) -> Tensor:
    return ms_ssim(ref, image)


# more of them: MS-SSIM over R, G and B, by the product, in float32; the others by frame-analytics (extra `weights`)
MORE: dict[str, FullReference] = {
    "gmsd": _frame_analytics("gmsd", lower_is_better=True),
    "haarpsi": _frame_analytics("haarpsi"),
    "iw-ssim": _frame_analytics("iw_ssim"),
    "ms-ssim-rgb": _ms_ssim_rgb,
    "psnr-hvs-m": _frame_analytics("psnr_hvs_m"),
    "ssimulacra2": _frame_analytics("ssimulacra2"),
}

PREFERENCES: dict[str, Preference] = {name: Preference(metric) for name, metric in FULL_REFERENCE.items()}
