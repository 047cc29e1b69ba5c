"""Feature fusion on the fused spatial gate."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from fastiqa import reference
from fastiqa.nn.squeeze_excitation import SqueezeExcitation
from fastiqa.ops.gated_upsample import gated_upsample


class FeatureFusion(reference.FeatureFusion):
    """Equivalent to `fastiqa.reference.FeatureFusion`: same constructor, parameters, keys and results.

    The spatial gate is one pass over the mixed map, the channel gate and the sum another.

    Example:
        >>> fusion = FeatureFusion(channels=16)
        >>> q, h = torch.randn(2, 1, 16, 14, 14)
        >>> fusion(q, h).shape
        torch.Size([1, 16, 14, 14])

    Source: arXiv 2411.07556; gates of arXiv 1807.06521.
    """

    gate_block: ClassVar[type[reference.SqueezeExcitation]] = SqueezeExcitation
    reads: ClassVar[tuple[str, ...]] = ("channel_gate",)  # its logits are taken, its product is not

    def forward(self, q: Tensor, h: Tensor) -> Tensor:
        """(N, C, H, W) twice → (N, C, H, W)."""
        self._check(q, h)
        u = self.mix(torch.cat([q, h], 1))
        gated: Tensor = gated_upsample(u, self._spatial_logits(u), "nearest")
        return torch.addcmul(q, gated, torch.sigmoid(self.channel_gate.logits(u)))
