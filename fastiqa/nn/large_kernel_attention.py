"""Large-kernel attention on the fused pair of depthwise convolutions."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from fastiqa import reference
from fastiqa.ops.large_kernel_conv import large_kernel_conv


class LargeKernelAttention(reference.LargeKernelAttention):
    """Equivalent to `fastiqa.reference.LargeKernelAttention`: same constructor, parameters, keys and results."""

    reads: ClassVar[tuple[str, ...]] = ("conv0", "conv_spatial")  # their weights are read, nothing is called

    def forward(self, u: Tensor) -> Tensor:
        """(N, C, H, W) → (N, C, H, W)."""
        self._check(u)
        near, far = self.conv0, self.conv_spatial
        attention: Tensor = self.conv1(large_kernel_conv(u, near.weight, near.bias, far.weight, far.bias))
        return u * attention
