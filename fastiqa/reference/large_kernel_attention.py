"""Large-kernel attention: a gate for each element from the 23×23 field around it.

    y = u · conv1(conv_spatial(conv0(u)))     depthwise 5×5, depthwise 7×7 of dilation 3, 1×1; each padded to size

Source: Visual Attention Network (arXiv 2202.09741), equations (1) and (2); parameters have the authors' names.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fastiqa.common import arguments


class LargeKernelAttention(nn.Module):
    """Multiply the input by attention from its neighbourhood.

    Args:
        dim: C, channels of the feature maps.

    Raises: ValueError or TypeError naming the argument.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dim = arguments.integer("dim", dim)
        self.conv0 = nn.Conv2d(dim, dim, 5, padding=2, groups=dim)
        self.conv_spatial = nn.Conv2d(dim, dim, 7, padding=9, dilation=3, groups=dim)
        self.conv1 = nn.Conv2d(dim, dim, 1)

    def forward(self, u: Tensor) -> Tensor:
        """(N, C, H, W) → (N, C, H, W)."""
        if not torch.jit.is_scripting():  # type: ignore[attr-defined]
            self._check(u)
        attention: Tensor = self.conv1(self.conv_spatial(self.conv0(u)))
        return u * attention

    def _check(self, u: Tensor) -> None:
        arguments.check_map("u", u, None, self.dim, None, None)
