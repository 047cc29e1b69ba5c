"""High pass: what the averages of 2×2 blocks cannot carry, y = x − up(pool(x)).

Source: what an octave convolution (arXiv 1904.05049) leaves to its high branch.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, interpolate

from fastiqa.reference import arguments


class HighPass(nn.Module):
    """Takes the average of each 2×2 block away; at odd borders that of the pixels which exist. No parameters."""

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) of any size → (N, C, H, W)."""
        arguments.check_map("x", x, None, None, None, None)
        pooled = avg_pool2d(x, 2, ceil_mode=True, count_include_pad=False)
        return x - interpolate(pooled, x.shape[-2:], mode="nearest")
