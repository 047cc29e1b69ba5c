"""Large-kernel attention on the fused pair of depthwise convolutions."""

from __future__ import annotations

from torch import Tensor

from fastiqa import reference
from fastiqa.nn.fused import Fused
from fastiqa.ops import large_kernel_conv
from fastiqa.reference.plain_layers import convolution_not_plain


class LargeKernelAttention(Fused, reference.LargeKernelAttention):
    """Equivalent to `fastiqa.reference.LargeKernelAttention`: same constructor, parameters, keys and results.

    Both depthwise convolutions are one pass, unless one is not a plain layer; `fastiqa.explain` tells why.
    """

    def must_call(self) -> str | None:
        """Return why the depthwise convolutions must be called, or None."""
        near, far = self.conv0, self.conv_spatial
        reason = convolution_not_plain("conv0", near, depthwise=True, bias=True)
        if reason is None:
            reason = convolution_not_plain("conv_spatial", far, dilation=3, depthwise=True, bias=True)
        if reason is None and (near.kernel_size, far.kernel_size) != ((5, 5), (7, 7)):
            return "conv0 and conv_spatial are of other sizes than 5x5 and 7x7"
        return reason

    def forward(self, u: Tensor) -> Tensor:
        """(N, C, H, W) → (N, C, H, W)."""
        if self.must_call() is not None:
            return super().forward(u)
        self._check(u)
        near, far = self.conv0, self.conv_spatial
        assert near.bias is not None and far.bias is not None  # noqa: PT018  must_call asks for both
        attention: Tensor = self.conv1(large_kernel_conv(u, near.weight, near.bias, far.weight, far.bias))
        return u * attention
