"""Cross subtraction: one convolution, shared by both differences, then concatenation.

    D = cat([conv(ref − a), conv(ref − b)], 1)            ref, a, b: (N, C, H, W);  D: (N, 2K, H, W)

Source: PRFNet, arXiv 2401.06992, equations (1) and (2).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fastiqa.common import arguments


class CrossSubtraction(nn.Module):
    """Convolved differences of two candidates from the reference.

    Args:
        channels: C, channels of the feature maps.
        cross_channels: K, output channels of the convolution; the block puts out 2K.
        kernel: odd size of the convolution; the maps keep their size.
        norm: batch normalisation and ReLU after the convolution, which then has no bias. The block runs on each
            difference separately, so training uses the batch statistics of each.

    Raises: ValueError naming the argument.
    """

    def __init__(self, channels: int, cross_channels: int, kernel: int = 3, norm: bool = False) -> None:
        super().__init__()
        arguments.integer("channels", channels)
        arguments.integer("cross_channels", cross_channels)
        arguments.integer("kernel", kernel, odd=True)
        arguments.flag("norm", norm)
        self.conv = nn.Conv2d(channels, cross_channels, kernel, padding=kernel // 2, bias=not norm)
        self.bn = nn.BatchNorm2d(cross_channels) if norm else None

    def forward(self, ref: Tensor, a: Tensor, b: Tensor) -> Tensor:
        """(N, C, H, W) three times → (N, 2K, H, W): the half of `a`, then the half of `b`."""
        return torch.cat([self._respond(ref - a), self._respond(ref - b)], 1)

    def _respond(self, difference: Tensor) -> Tensor:
        response: Tensor = self.conv(difference)
        return response if self.bn is None else torch.relu(self.bn(response))
