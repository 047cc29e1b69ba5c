"""PSNR: the peak signal-to-noise ratio in decibels.

    psnr = 10 log10( data_range² / mean((x − y)²) )         x, y: (N, C, H, W) → (N,)

The mean runs over all channels and pixels together. Nothing is clipped, and luma is taken only on request.
"""

from __future__ import annotations

from typing import ClassVar, get_args

import torch
from torch import Tensor
from torch.nn.functional import mse_loss

from fastiqa.common import arguments
from fastiqa.common.tracing import one_node
from fastiqa.metrics import _windows
from fastiqa.metrics._metric import (
    DataRange,
    Metric,
    Reduction,
    check_mask,
    check_pair,
    check_reduction,
    reduce_batch,
    require_finite,
    to_compute_dtype,
)
from fastiqa.metrics.presets import Channels


def psnr(
    x: Tensor,
    y: Tensor,
    *,
    data_range: DataRange = None,
    check_range: bool | None = None,
    channels: Channels = "rgb",
    mask: Tensor | None = None,
    reduction: Reduction = "none",
) -> Tensor:
    """Peak signal-to-noise ratio of each pair of images, in dB; higher is better.

    Args:
        x: (N, C, H, W), any floating dtype or uint8, values in [0, data_range].
        y: same shape and device as ``x``, and both floating or both uint8; the measure is symmetric.
        data_range, check_range: as for :func:`fastiqa.metrics.ssim`.
        channels: "rgb", all channels together; "luma", MATLAB's grey, rounded to 8 bits, without a gradient;
            "unrounded_luma".
        mask: weights of the pixels, (N or 1, 1, H, W), bool or floating, not negative.
        reduction: "none", one score per image; "mean" or "sum" over the batch.

    Returns:
        (N,), or () for "mean" and "sum", in dB; float64 if an image is float64, otherwise float32. Equal images score
        infinity, with a gradient of zero.

    Raises:
        TypeError, ValueError: naming the argument, "got X, want Y": dtype, shape, device, range, channels; for eager
            CPU tensors also NaN, infinity, values outside the range and negative weights in a mask.

    Equivalent to ``skimage.metrics.peak_signal_noise_ratio`` of each pair.

    Example:
        >>> import torch
        >>> from fastiqa.metrics import psnr
        >>> psnr(torch.zeros(1, 3, 8, 8), torch.full((1, 3, 8, 8), 0.1))
        tensor([20.])
    """
    check_reduction(reduction)
    pair = check_pair(x, y, data_range, check_range, keeps_black=channels == "rgb")  # a difference needs no black
    x, y, white, _ = pair
    _windows.check_channels(x, y, channels)
    if mask is not None:
        check_mask(mask, x)
    if _windows.runs_in_bands(x, y, _windows.CACHED_PIXELS):
        parts = [_squares(x[:, :, b.start : b.stop], y[:, :, b.start : b.stop], channels, white,
                          None if mask is None else mask[:, :, b.start : b.stop])
                 for b in _windows.bands(x.shape[2], x, band=_windows.CACHED_PIXELS)]  # fmt: skip
        squares, weights = (torch.stack(part).sum(0) for part in zip(*parts, strict=True))
    else:
        squares, weights = _squares(x, y, channels, white, mask)
    mean_squared_error = (squares / weights).to(torch.float64 if x.dtype == torch.float64 else torch.float32)
    equal = mean_squared_error == 0
    score = 10 * torch.log10(white**2 / mean_squared_error.masked_fill(equal, 1))
    score = score.masked_fill(equal, float("inf"))
    return reduce_batch(require_finite(score, pair, mask), reduction)


def _squares(x: Tensor, y: Tensor, channels: Channels, white: float, mask: Tensor | None) -> tuple[Tensor, Tensor]:
    """Per image, the sum of squared errors and the sum of weights: (N,), float64."""
    x, y = (to_compute_dtype(_windows.scored_channels(image, channels, white)) for image in (x, y))
    # One pass over both images; (x − y).square() took 2.4 times as long.
    errors = mse_loss(x, y, reduction="none")
    if mask is None:
        _, c, h, w = errors.shape  # symbols in torch.compile, tensors in torch.jit.trace: both can be multiplied
        return _sum(errors), torch.ones_like(errors[:, 0, 0, 0], dtype=torch.float64) * (c * h * w)
    weights = mask.to(errors.dtype).expand_as(errors[:, :1])
    return _sum(errors * weights), _sum(weights) * errors.shape[1]


def _sum(maps: Tensor) -> Tensor:
    """Sum (N, C, H, W) to (N,), float64; rows first, so an image has the same sum alone and in any batch."""
    return maps.sum(3).double().sum((1, 2))


class PSNR(Metric):
    """`psnr` as a module with fixed options; call it with x, y and optionally a mask.

    Example:
        >>> import torch
        >>> from fastiqa.metrics import PSNR
        >>> codes = torch.zeros(1, 3, 8, 8, dtype=torch.uint8)
        >>> PSNR()(codes, codes + 255)
        tensor([0.])
    """

    name: ClassVar[str] = "psnr"
    score_range = (float("-inf"), float("inf"))

    def __init__(
        self,
        *,
        data_range: DataRange = None,
        check_range: bool | None = None,
        channels: Channels = "rgb",
        reduction: Reduction = "none",
    ) -> None:
        arguments.one_of("channels", channels, get_args(Channels))
        super().__init__(data_range, reduction, check_range, channels=channels)

    def forward(self, x: Tensor, y: Tensor, mask: Tensor | None = None) -> Tensor:
        score: Tensor = one_node(psnr, x, y, mask=mask, **self.options)
        return score
