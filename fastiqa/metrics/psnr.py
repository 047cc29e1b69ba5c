"""PSNR: the peak signal-to-noise ratio in decibels.

    psnr = 10 log10( data_range² / mean((x − y)²) )         x, y: (N, C, H, W) → (N,)

The mean runs over all channels and pixels together, nothing is clipped and no luma is taken.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fastiqa.metrics._pair import checked_pair


def psnr(x: Tensor, y: Tensor, *, data_range: float = 1.0) -> Tensor:
    """Peak signal-to-noise ratio of each pair of images, in dB; higher is better.

    Args:
        x: (N, C, H, W), any floating dtype, values in [0, data_range].
        y: same shape, dtype and device as ``x``; the measure is symmetric.
        data_range: value of white: 1.0 for images in [0, 1], 255 for 8-bit code values.

    Returns:
        (N,), float64 for float64 images and float32 for all others; infinite where the two images are equal, and
        there without a gradient (it is NaN).

    Raises:
        TypeError, ValueError: naming the argument, what came and what was wanted (dtype, shape, device, range; NaN or
            infinity in CPU tensors outside tracing).

    Equivalent to ``skimage.metrics.peak_signal_noise_ratio`` of each pair.

    Example:
        >>> import torch
        >>> from fastiqa.metrics import psnr
        >>> psnr(torch.zeros(1, 3, 8, 8), torch.full((1, 3, 8, 8), 0.1))
        tensor([20.])
    """
    x, y = checked_pair(x, y, data_range)
    mean_squared_error = (x - y).square().mean((1, 2, 3))
    return 10 * torch.log10(data_range**2 / mean_squared_error)
