"""Twins of pytorch-msssim's SSIM and MS_SSIM, for `fastiqa.accelerate`.

A twin subclasses the foreign class, reads the same attributes, and computes the same scores in one pass. It passes
arguments that it does not cover (five dimensions, two dtypes, sides smaller than the window) to the foreign forward.
Scores have the images' dtype, as in pytorch-msssim, but half precision is computed in float32.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import pytorch_msssim
import torch
from torch import Tensor, nn

from fastiqa.metrics.ms_ssim import ms_ssim
from fastiqa.metrics.presets import SCALE_WEIGHTS
from fastiqa.ops import ssim
from fastiqa.ops.ssim import LARGEST_SIZE, window

ROUNDING = 1e-6  # of the foreign window, which is float32


class Gaussian(NamedTuple):
    size: int
    sigma: float


def why_not(module: nn.Module) -> str | None:
    """Return why a module of pytorch-msssim cannot become its twin, or None."""
    return None if _gaussian(module) else f"its window is no Gaussian of 3 to {LARGEST_SIZE} pixels"


def _gaussian(module: Any) -> Gaussian | None:
    """The size and sigma behind a module's window, as far as its digits tell."""
    row = module.win.detach().double().flatten(1).cpu()
    size = row.shape[1]
    if size % 2 == 0 or not 3 <= size <= LARGEST_SIZE or not row[0, size // 2] > row[0, size // 2 + 1] > 0:
        return None
    sigma = math.sqrt(0.5 / math.log(row[0, size // 2] / row[0, size // 2 + 1]))
    return Gaussian(size, sigma) if (row - row.new_tensor(window(size, sigma))).abs().max() < ROUNDING else None


def _covers(x: Tensor, y: Tensor, window: Gaussian | None) -> bool:
    if window is None or not isinstance(x, Tensor) or not x.is_floating_point() or x.dtype != y.dtype:
        return False
    return x.ndim == 4 and x.shape == y.shape and min(x.shape[-2:]) >= window.size


class SSIM(pytorch_msssim.SSIM):  # type: ignore[misc]
    """`pytorch_msssim.SSIM` on `fastiqa.ops.ssim`."""

    def forward(self, X: Tensor, Y: Tensor) -> Tensor:
        gaussian = _gaussian(self)
        if gaussian is None or not _covers(X, Y, gaussian):
            theirs: Tensor = super().forward(X, Y)
            return theirs
        c1, c2 = ((k * self.data_range) ** 2 for k in self.K)
        score: Tensor = ssim(X, Y, *gaussian, c1, c2)[0].flatten(1)
        score = (torch.relu(score) if self.nonnegative_ssim else score).to(X.dtype)
        return score.mean() if self.size_average else score.mean(1)


class MS_SSIM(pytorch_msssim.MS_SSIM):  # type: ignore[misc]
    """`pytorch_msssim.MS_SSIM` on `fastiqa.metrics.ms_ssim`."""

    def forward(self, X: Tensor, Y: Tensor) -> Tensor:
        gaussian = _gaussian(self)
        if gaussian is None or not _covers(X, Y, gaussian):
            theirs: Tensor = super().forward(X, Y)
            return theirs
        score = ms_ssim(
            X,
            Y,
            data_range=self.data_range,
            check_range=False,  # as there
            preset="pytorch_msssim",
            reduction="mean" if self.size_average else "none",
            size=gaussian.size,
            sigma=gaussian.sigma,
            k1=self.K[0],
            k2=self.K[1],
            weights=tuple(SCALE_WEIGHTS if self.weights is None else self.weights),
        )
        return score.to(X.dtype)


PAIRS: dict[type[nn.Module], type[nn.Module]] = {pytorch_msssim.SSIM: SSIM, pytorch_msssim.MS_SSIM: MS_SSIM}
