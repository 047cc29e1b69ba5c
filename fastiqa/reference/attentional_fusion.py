"""Attentional feature fusion: a mix of two maps by attention to each pixel and to the whole map.

    L(z) = BN(conv(relu(BN(conv(z)))))             1×1 convolutions, C → C/r → C
    G(z) = the same, with other weights, on mean_hw(z)
    m = σ(L(x + y) + G(x + y)),   out = m x + (1 − m) y

L + G is the multi-scale channel attention module, MS-CAM. Source: Dai et al., arXiv 2009.14082, equations 1 to 4; the
parameters have the names in the authors' code.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn

from fastiqa.common import arguments
from fastiqa.reference.batch_norm_act import BatchNormAct2d, NormSequential


class AttentionalFeatureFusion(nn.Module):
    """Weighted mean of two feature maps, with weights from MS-CAM.

    Args:
        channels: C, channels of both maps.
        reduction: r; the branches' hidden width is ⌊C / r⌋.
        doubled: return twice the mean, as the authors' code does, unlike their paper; for weights trained so.

    Raises: ValueError or TypeError naming the argument. Training mode refuses a batch of one, because batch
        normalisation has no statistics for the one pixel of the global branch.
    """

    norm_block: ClassVar[type[BatchNormAct2d]] = BatchNormAct2d

    def __init__(self, channels: int, reduction: int = 4, doubled: bool = False) -> None:
        super().__init__()
        self.channels = arguments.integer("channels", channels)
        if arguments.integer("reduction", reduction) > channels:
            raise ValueError(f"reduction: got {reduction}, want at most the {channels} channels")
        self.doubled = arguments.flag("doubled", doubled)
        self.local_att = NormSequential(*self._branch(channels // reduction))
        self.global_att = NormSequential(nn.AdaptiveAvgPool2d(1), *self._branch(channels // reduction))

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """(N, C, H, W) twice → (N, C, H, W)."""
        self._check(x, y)
        total = x + y
        m = torch.sigmoid(self.local_att(total) + self.global_att(total))
        blend = m * x + (1 - m) * y
        return 2 * blend if self.doubled else blend

    def _check(self, x: Tensor, y: Tensor) -> None:
        arguments.check_map("x", x, None, self.channels, None, None)
        arguments.check_map_like("y", y, x)
        if self.global_att[-1].training and x.shape[0] == 1:
            raise ValueError(f"x: got shape {tuple(x.shape)}, want a batch of at least 2 in training mode")

    def _branch(self, hidden: int) -> tuple[nn.Module, ...]:
        return (
            nn.Conv2d(self.channels, hidden, 1),
            self.norm_block(hidden),
            nn.Identity(),  # the authors' ReLU, which their names count, is in the norm
            nn.Conv2d(hidden, self.channels, 1),
            self.norm_block(self.channels, negative_slope=1.0),
        )
