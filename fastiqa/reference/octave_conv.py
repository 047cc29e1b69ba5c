"""Octave convolution: feature maps in two sizes, convolved within each and across.

    high' = h2h(high) + up(l2h(low))            high: (N, C_H, H, W),  low: (N, C_L, ⌈H/2⌉, ⌈W/2⌉)
    low'  = l2l(low) + h2l(pool(high))          C_L = ⌊α C⌋,  C_H = C − C_L

pool averages 2×2 blocks, up repeats a value over its block. With stride 2 both maps are pooled first, and l2h(low)
already has the size of high', so it is not enlarged. At odd borders a block has one row or column, and the average
covers the existing pixels: sizes round up. Public code, for even sizes only, rounds down.

Source: Chen et al., Drop an Octave, arXiv 1904.05049, section 3.2; parameters are named as in the PyTorch ports.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, interpolate

from fastiqa.common import arguments


def half_size(x: Tensor) -> Tensor:
    """Averages of 2×2 blocks, at odd borders of the existing pixels: (N, C, H, W) → (N, C, ⌈H/2⌉, ⌈W/2⌉)."""
    if not torch.compiler.is_exporting():
        return avg_pool2d(x, 2, ceil_mode=True, count_include_pad=False)
    # torch.export cannot prove ceil_mode's conditions for all sizes. A last row counted twice has the same average.
    for dim in (2, 3):
        side = x.shape[dim]
        first = 2 * torch.arange((side + 1) // 2, device=x.device)
        x = x.index_select(dim, first) + x.index_select(dim, (first + 1).clamp(max=side - 1))
    return x / 4


class OctaveConv2d(nn.Module):
    """Convolution of a high and a low branch.

    Args:
        in_channels: C of both input branches together.
        out_channels: C of both output branches together.
        kernel_size: odd; the convolutions themselves keep sizes.
        alpha_in: share of the low branch in the input, in [0, 1). 0 means none, as in a network's first layer.
        alpha_out: share of the low branch in the output, in [0, 1). 0 means none, as in the last layer.
        stride: 1 or 2, by pooling.
        padding: ⌊kernel_size / 2⌋, or None for it; with any other the branches' sizes do not fit.
        bias: of every convolution.

    Attributes:
        conv_h2h, conv_h2l, conv_l2h, conv_l2l: convolutions; None if a branch is absent.

    Raises: ValueError or TypeError naming the argument.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int = 3,
        alpha_in: float = 0.5,
        alpha_out: float = 0.5,
        stride: int = 1,
        padding: int | None = None,
        bias: bool = False,
    ) -> None:
        super().__init__()
        low_in = _low_channels("alpha_in", alpha_in, arguments.integer("in_channels", in_channels))
        low_out = _low_channels("alpha_out", alpha_out, arguments.integer("out_channels", out_channels))
        half = arguments.integer("kernel_size", kernel_size, odd=True) // 2
        arguments.one_of("stride", stride, (1, 2))
        arguments.one_of("padding", padding, (None, half))
        arguments.flag("bias", bias)
        self.stride = stride
        self.in_channels = high_in, low_in = in_channels - low_in, low_in
        self.out_channels = high_out, low_out = out_channels - low_out, low_out

        def conv(inputs: int, outputs: int) -> nn.Conv2d:
            return nn.Conv2d(inputs, outputs, kernel_size, padding=half, bias=bias)

        self.conv_h2h = conv(high_in, high_out)
        self.conv_h2l = conv(high_in, low_out) if low_out else None
        self.conv_l2h = conv(low_in, high_out) if low_in else None
        self.conv_l2l = conv(low_in, low_out) if low_in and low_out else None

    def forward(
        self, high: Tensor, low: Tensor | None = None, pooled: Tensor | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """Both branches → both branches; the low one is None if its share is 0.

        Args:
            high: (N, C_H, H, W).
            low: (N, C_L, ⌈H/2⌉, ⌈W/2⌉), or None if `alpha_in` is 0.
            pooled: pool(high), (N, C_H, ⌈H/2⌉, ⌈W/2⌉), if the caller has it: `fastiqa.ops.octave_split` computes it
                together with the activation.
        """
        self._check(high, low, pooled)
        if self.stride == 2:
            high, pooled = half_size(high) if pooled is None else pooled, None
        out_high = self.conv_h2h(high)
        if self.conv_l2h is not None and low is not None:
            lifted = self.conv_l2h(low)
            out_high = out_high + (interpolate(lifted, high.shape[-2:]) if self.stride == 1 else lifted)
        if self.conv_h2l is None:
            return out_high, None
        out_low = self.conv_h2l(half_size(high) if pooled is None else pooled)
        if self.conv_l2l is not None and low is not None:
            out_low = out_low + self.conv_l2l(low if self.stride == 1 else half_size(low))
        return out_high, out_low

    def _check(self, high: Tensor, low: Tensor | None, pooled: Tensor | None) -> None:
        high_channels, low_channels = self.in_channels
        arguments.check_map("high", high, None, high_channels, None, None)
        n, _, h, w = high.shape
        half = (h + 1) // 2, (w + 1) // 2
        if (low is None) != (low_channels == 0):
            wanted = f"a map of {low_channels} channels" if low_channels else "None"
            raise TypeError(f"low: got {type(low).__name__}, want {wanted}, by alpha_in")
        if low is not None:
            arguments.check_map("low", low, n, low_channels, *half)
        if pooled is not None:
            arguments.check_map("pooled", pooled, n, high_channels, *half)


def _low_channels(name: str, alpha: float, channels: int) -> int:
    low = int(arguments.fraction(name, alpha) * channels)
    if alpha > 0 and low == 0:
        raise ValueError(f"{name}: got {alpha!r}, want 0 or at least one channel of {channels}")
    return low
