"""Large-kernel attention."""

from __future__ import annotations

from torch import Tensor, nn


class LargeKernelAttention(nn.Module):
    """u · conv1(conv_spatial(conv0(u))): depthwise 5×5, depthwise 7×7 of dilation 3, 1×1, times the input.

    Parameters have the names and shapes of the official implementation.

    Args:
        dim: channels.

    Source: Visual Attention Network (arXiv 2202.09741), equations (1) and (2).
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.conv0 = nn.Conv2d(dim, dim, 5, padding=2, groups=dim)
        self.conv_spatial = nn.Conv2d(dim, dim, 7, padding=9, dilation=3, groups=dim)
        self.conv1 = nn.Conv2d(dim, dim, 1)

    def forward(self, u: Tensor) -> Tensor:
        """(N, dim, H, W) → (N, dim, H, W)."""
        attention: Tensor = self.conv1(self.conv_spatial(self.conv0(u)))
        return u * attention
