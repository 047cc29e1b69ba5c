"""Feature fusion: two attentions decide where high-frequency features join the main branch.

    u = conv([q; h])                                       1×1 convolution, 2C → C
    c = σ(fc2(relu(fc1(mean_hw(u)))))                      a gate for each channel
    s = σ(conv7×7([mean_c(u); max_c(u)]))                  a gate for each pixel
    out = q + c · s · u

Source: arXiv 2411.07556 names a feature fusion module that fuses high-frequency features adaptively, by attention; its
equations could not be read. The gates here are those of CBAM (Woo et al., arXiv 1807.06521), side by side.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn

from fastiqa.common import arguments
from fastiqa.reference.squeeze_excitation import SqueezeExcitation


class FeatureFusion(nn.Module):
    """FFM: add to a feature map the parts of it and of a second map that channel and spatial attention choose.

    Args:
        channels: C, channels of both maps.
        reduction: divisor for the channel gate's hidden width, see `SqueezeExcitation`.

    Raises: ValueError or TypeError naming the argument.
    """

    gate_block: ClassVar[type[SqueezeExcitation]] = SqueezeExcitation

    def __init__(self, channels: int, reduction: int = 16) -> None:
        super().__init__()
        self.channels = arguments.integer("channels", channels)
        self.mix = nn.Conv2d(2 * channels, channels, 1)
        self.channel_gate = self.gate_block(channels, reduction)
        self.spatial_gate = nn.Conv2d(2, 1, 7, padding=3)

    def forward(self, q: Tensor, h: Tensor) -> Tensor:
        """(N, C, H, W) twice → (N, C, H, W)."""
        self._check(q, h)
        u = self.mix(torch.cat([q, h], 1))
        gated: Tensor = self.channel_gate(u) * torch.sigmoid(self._spatial_logits(u))
        return q + gated

    def _spatial_logits(self, u: Tensor) -> Tensor:
        """The logits of s: (N, C, H, W) → (N, 1, H, W)."""
        logits: Tensor = self.spatial_gate(torch.cat([u.mean(1, keepdim=True), u.amax(1, keepdim=True)], 1))
        return logits

    def _check(self, q: Tensor, h: Tensor) -> None:
        arguments.check_map("q", q, None, self.channels, None, None)
        arguments.check_map_like("h", h, q)
