"""Convolutions that end in something else, in one call of oneDNN: what Inductor makes of constant weights, now."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fastiqa.reference import arguments


class ConvReLU2d(nn.Conv2d):
    """relu(conv(x)), by which the result is written once: 8 % of PRFNet's time at 448x448 on two cores."""

    def forward(self, x: Tensor) -> Tensor:
        if not one_call(x, self.weight):
            return super().forward(x).relu_()
        return torch.ops.mkldnn._convolution_pointwise(  # type: ignore[no-any-return]
            x, self.weight, self.bias, self.padding, self.stride, self.dilation, self.groups, "relu", [], None
        )


def conv_add_relu_(shortcut: Tensor, x: Tensor, weight: Tensor, bias: Tensor) -> None:
    """shortcut = relu(conv(x) + shortcut) of a 1x1 convolution, where `one_call` allows it."""
    pads, ones = (0, 0), (1, 1)
    torch.ops.mkldnn._convolution_pointwise_.binary(
        shortcut, x, weight, bias, pads, ones, ones, 1, "add", 1, "relu", [], None
    )


def one_call(x: Tensor, weight: Tensor, *others: Tensor) -> bool:
    """Whether oneDNN does it: now, in a dtype that this CPU multiplies in, channels last."""
    if not arguments.is_eager(x) or x.device.type != "cpu" or not torch.backends.mkldnn.enabled:
        return False
    supported = x.dtype == torch.float32 or (x.dtype == torch.bfloat16 and torch.ops.mkldnn._is_mkldnn_bf16_supported())
    laid_out = all(y.is_contiguous(memory_format=torch.channels_last) for y in (weight, *others))
    return supported and laid_out and all(y.dtype == x.dtype for y in (weight, *others))
