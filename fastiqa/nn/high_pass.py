"""High pass in one pass over memory."""

from __future__ import annotations

from torch import Tensor

from fastiqa import reference
from fastiqa.common.tracing import Leaf
from fastiqa.ops import high_pass


class HighPass(Leaf, reference.HighPass):
    """Equivalent to `fastiqa.reference.HighPass`; its gradient is the same kernel and saves nothing.

    Example:
        >>> import torch
        >>> HighPass()(torch.tensor([[[[1.0, 2.0], [3.0, 6.0]]]])).tolist()
        [[[[-2.0, -1.0], [0.0, 3.0]]]]

    Source: the high branch of an octave convolution, arXiv 1904.05049.
    """

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) of any size → (N, C, H, W)."""
        return high_pass(x)
