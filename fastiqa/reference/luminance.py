"""The fine detail of an image: its luminance less a Gaussian blur."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import conv2d, pad

# ITU-R BT.601, as in JPEG's YCbCr.
LUMA_WEIGHTS = (0.299, 0.587, 0.114)
SIGMA = 1.5  # pixels, as in SSIM's window
RADIUS = 4


def luminance_high_pass(image: Tensor) -> Tensor:
    """y − blur(y) for the luminance y; the Gaussian has σ = 1.5 pixels, ends at 4 pixels, and mirrors borders.

    Args:
        image: (N, 3, H, W), RGB, floating point, H and W of at least 5.

    Returns:
        (N, 1, H, W), with a mean of about zero.
    """
    luminance = (image * image.new_tensor(LUMA_WEIGHTS)[:, None, None]).sum(1, keepdim=True)
    offsets = torch.arange(-RADIUS, RADIUS + 1, dtype=image.dtype, device=image.device)
    window = torch.exp(-offsets.square() / (2 * SIGMA**2))
    window = window / window.sum()
    padded = pad(luminance, (RADIUS,) * 4, mode="reflect")
    return luminance - conv2d(conv2d(padded, window.view(1, 1, 1, -1)), window.view(1, 1, -1, 1))
