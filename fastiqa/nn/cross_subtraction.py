"""Cross subtraction on the fused difference operator."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional

from fastiqa import reference
from fastiqa.ops.cross_difference import cross_difference


class CrossSubtraction(reference.CrossSubtraction):
    """Equivalent to `fastiqa.reference.CrossSubtraction`: same constructor, parameters, keys and results.

    Without norm, the shared convolution runs once, with two groups, on cat([ref − a, ref − b], 1). Group s reads the
    channels of difference s and writes channels sK … (s + 1)K of the result: each response lands in its half of the
    concatenation, so no copy follows the convolution in either memory format. The weight, repeated for the two groups,
    is small beside the maps.

    With norm, training mode needs the batch statistics of each difference: the block-wise path of the reference runs.
    """

    def forward(self, ref: Tensor, a: Tensor, b: Tensor) -> Tensor:
        """(N, C, H, W) three times → (N, 2K, H, W): the half of `a`, then the half of `b`."""
        weight, bias = self.conv.weight, self.conv.bias
        if self.bn is not None or bias is None:
            return super().forward(ref, a, b)
        return functional.conv2d(
            cross_difference(ref, a, b),
            weight.repeat(2, 1, 1, 1),
            bias.repeat(2),
            padding=weight.shape[-1] // 2,
            groups=2,
        )
