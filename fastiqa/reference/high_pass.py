"""High pass: what the averages of 2×2 blocks cannot carry, y = x − up(pool(x)).

Source: what an octave convolution (arXiv 1904.05049) leaves to its high branch.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn.functional import interpolate

from fastiqa.common import arguments
from fastiqa.reference.octave_conv import half_size


class HighPass(nn.Module):
    """Takes the average of each 2×2 block away; at odd borders that of the pixels which exist. No parameters."""

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) of any size → (N, C, H, W)."""
        arguments.check_map("x", x, None, None, None, None)
        pooled = half_size(x)
        return x - interpolate(pooled, x.shape[-2:], mode="nearest")
