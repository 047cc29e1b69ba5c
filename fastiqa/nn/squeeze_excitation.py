"""Squeeze and excitation on the fused tail of a bottleneck."""

from __future__ import annotations

import torch
from torch import Tensor

from fastiqa import reference
from fastiqa.common.tracing import Leaf
from fastiqa.ops import scale_residual_relu


class SqueezeExcitation(Leaf, reference.SqueezeExcitation):
    """Equivalent to `fastiqa.reference.SqueezeExcitation`: same constructor, parameters, keys and results.

    With a residual, gate, sum and ReLU are one pass forward and one backward. Without one, PyTorch multiplies.

    Example:
        >>> block = SqueezeExcitation(channels=32, reduction=4)
        >>> x, shortcut = torch.randn(2, 1, 32, 14, 14)
        >>> torch.allclose(block(x, shortcut), torch.relu(block(x) + shortcut), atol=1e-6)
        True

    Source: arXiv 1709.01507.
    """

    def forward(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        """(N, C, H, W) → x · s, (N, C, H, W); with a `residual` of that shape → relu(x · s + residual)."""
        self._check(x, residual)
        logits = self.logits(x)
        if residual is None:
            return x * torch.sigmoid(logits)
        return scale_residual_relu(x, logits, residual)
