"""The bottleneck of SE-Res2Net for inference: nothing comes after its last convolution.

Squeeze and excitation behind a 1×1 convolution z = W y + b, to which the norm is folded, needs no z: the mean of z is
that of y under the same convolution, and the gate s = σ(fc2(relu(fc1(W mean(y) + b)))) scales the rows of W,

    out = relu(s · z + shortcut) = relu((s · W) y + s · b + shortcut),

one call of oneDNN, which Inductor makes for convolutions with constant weights. It writes onto the shortcut.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fastiqa.reference import arguments
from fastiqa.reference.se_res2net import SERes2Block


class InferenceSERes2Block(SERes2Block):
    """A bottleneck whose norms are folded. On CPUs it overwrites its shortcut, be it its own argument.

    Within a stage nobody else reads that, and the first block of a stage has a convolution in the shortcut.
    """

    def _tail(self, y: Tensor, shortcut: Tensor) -> Tensor:
        conv = self.conv3
        if not _one_call(y, conv.weight, shortcut):
            return super()._tail(y, shortcut)
        scales = torch.sigmoid(self.se.logits(conv(y.mean((2, 3), keepdim=True))))
        for i, scale in enumerate(scales):
            torch.ops.mkldnn._convolution_pointwise_.binary(
                shortcut[i : i + 1],
                y[i : i + 1],
                conv.weight * scale[:, None],
                conv.bias * scale.flatten(),
                conv.padding,
                conv.stride,
                conv.dilation,
                conv.groups,
                "add",
                1,
                "relu",
                [],
                None,
            )
        return shortcut


def _one_call(y: Tensor, weight: Tensor, shortcut: Tensor) -> bool:
    """Whether oneDNN convolves, adds and rectifies in one call: now, and in a dtype that this CPU multiplies in."""
    if not arguments.is_eager(y) or y.device.type != "cpu" or not torch.backends.mkldnn.enabled:
        return False
    supported = y.dtype == torch.float32 or (y.dtype == torch.bfloat16 and torch.ops.mkldnn._is_mkldnn_bf16_supported())
    laid_out = all(x.is_contiguous(memory_format=torch.channels_last) for x in (y, shortcut))
    return supported and laid_out and y.dtype == weight.dtype == shortcut.dtype
