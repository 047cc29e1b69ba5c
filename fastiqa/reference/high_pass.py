"""High pass: feature maps less the averages of 2×2 blocks, y = x − up(pool(x)).

Source: the high branch of an octave convolution, arXiv 1904.05049.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn.functional import interpolate

from fastiqa.common import arguments
from fastiqa.reference.octave_conv import half_size


class HighPass(nn.Module):
    """Subtract the average of each 2×2 block, at odd borders of its existing pixels. No parameters."""

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) of any size → (N, C, H, W)."""
        arguments.check_map("x", x, None, None, None, None)
        pooled = half_size(x)
        return x - interpolate(pooled, x.shape[-2:], mode="nearest")
