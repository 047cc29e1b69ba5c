"""Attentional feature fusion on the fused blend."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from fastiqa import reference
from fastiqa.common.tracing import Leaf
from fastiqa.nn.batch_norm_act import BatchNormAct2d
from fastiqa.ops import attentional_blend


class AttentionalFeatureFusion(Leaf, reference.AttentionalFeatureFusion):
    """Equivalent to `fastiqa.reference.AttentionalFeatureFusion`: same constructor, parameters, keys and results.

    All that follows the two branches is one pass forward and one backward; the fusion weights are never stored.

    Example:
        >>> import torch
        >>> fusion = AttentionalFeatureFusion(channels=16).eval()
        >>> x, y = torch.randn(2, 1, 16, 14, 14)
        >>> out = fusion(x, y)
        >>> bool((out >= torch.minimum(x, y) - 1e-6).all() and (out <= torch.maximum(x, y) + 1e-6).all())
        True

    Source: arXiv 2009.14082, equations 1 to 4.
    """

    norm_block: ClassVar[type[reference.BatchNormAct2d]] = BatchNormAct2d

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """(N, C, H, W) twice → (N, C, H, W)."""
        self._check(x, y)
        total = x + y
        blend: Tensor = attentional_blend(x, y, self.local_att(total), self.global_att(total))
        return 2 * blend if self.doubled else blend
