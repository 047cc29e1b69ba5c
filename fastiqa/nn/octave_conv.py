"""Octave convolution on the fused split and join of its branches."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d

from fastiqa import reference
from fastiqa.nn.fused import Fused
from fastiqa.ops import octave_merge, octave_split
from fastiqa.reference.octave_conv import half_size
from fastiqa.reference.plain_layers import convolution_not_plain


def with_average(x: Tensor) -> tuple[Tensor, Tensor]:
    """Return `x` and its average over 2×2 blocks.

    PyTorch's pooling of NCHW maps on a CPU took 11 times as long as the split, which also copies the map (48 channels
    of 112×112 twice, one thread: 2.1 and 0.19 ms; with the gradient 4.1 and 1.5). Elsewhere the copy would not pay.
    """
    if x.device.type == "cpu" and x.is_contiguous():
        act, pooled = octave_split(x, 1.0)
        return act, pooled
    return x, half_size(x)


class OctaveConv2d(Fused, reference.OctaveConv2d):
    """Equivalent to `fastiqa.reference.OctaveConv2d`: same constructor, parameters, keys and results.

    Two convolutions whose results are added at one size become one convolution of both branches; with stride 2 all four
    become two (64 channels of 56×56 eight times, forward and backward: 22 and 12 ms of CPU time). Otherwise the low
    branch joins the high one in one pass. After an activation, `fastiqa.ops.octave_split` computes the activation
    together with the average that this module takes as `pooled`. If one of two such convolutions is not a plain layer
    (hooks, an adapter around it, sharded weights, …), all are called one by one; `fastiqa.explain` tells why.

    Example:
        >>> import torch
        >>> from fastiqa.ops import octave_split
        >>> first = OctaveConv2d(3, 32, alpha_in=0, alpha_out=0.25)
        >>> last = OctaveConv2d(32, 32, alpha_in=0.25, alpha_out=0)
        >>> high, low = first(torch.rand(1, 3, 56, 56))
        >>> high.shape, low.shape
        (torch.Size([1, 24, 56, 56]), torch.Size([1, 8, 28, 28]))
        >>> high, pooled = octave_split(high, 0.2)  # leaky ReLU of slope 0.2 and its average
        >>> high, low = last(high, low, pooled)
        >>> high.shape, low
        (torch.Size([1, 32, 56, 56]), None)

    Source: arXiv 1904.05049, section 3.2.
    """

    def must_call(self) -> str | None:
        """Return why the convolutions cannot become one, or None."""
        if self.conv_l2h is None:
            return None
        added = [] if self.conv_l2l is None else ["conv_h2l", "conv_l2l"]
        if self.stride == 2:
            added += ["conv_h2h", "conv_l2h"]
        for name in added:
            reason = convolution_not_plain(name, getattr(self, name))
            if reason is not None:
                return reason
        return None

    def forward(
        self, high: Tensor, low: Tensor | None = None, pooled: Tensor | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """Both branches → both branches; the low one is None if its share is 0. Sizes as in the reference."""
        if self.must_call() is not None:
            return super().forward(high, low, pooled)
        self._check(high, low, pooled)
        return self._fused(high, low, pooled)

    def _fused(self, high: Tensor, low: Tensor | None, pooled: Tensor | None) -> tuple[Tensor, Tensor | None]:
        if pooled is None and (self.stride == 2 or self.conv_h2l is not None):
            high, pooled = with_average(high)
        if self.stride == 1:
            out_high = self.conv_h2h(high)
            if self.conv_l2h is not None and low is not None:
                out_high = octave_merge(out_high, self.conv_l2h(low))
        if pooled is None or (self.stride == 1 and self.conv_h2l is None):
            return out_high, None
        coarse = pooled if low is None else torch.cat([pooled, low], 1)
        if self.stride == 2:
            out_high = _sum_of_convolutions(coarse, self.conv_h2h, self.conv_l2h)
        if self.conv_h2l is None:
            return out_high, None
        return out_high, _sum_of_convolutions(
            with_average(coarse)[1] if self.stride == 2 else coarse, self.conv_h2l, self.conv_l2l
        )


def _sum_of_convolutions(x: Tensor, first: nn.Conv2d, second: nn.Conv2d | None) -> Tensor:
    """Add two convolutions, each of some channels of `x`; without a second, the first takes all."""
    if second is None:
        return first(x)  # type: ignore[no-any-return]
    bias = None if first.bias is None or second.bias is None else first.bias + second.bias
    return conv2d(x, torch.cat([first.weight, second.weight], 1), bias, padding=first.padding)
