"""The bottleneck of SE-Res2Net for inference: nothing comes after its last convolution.

Squeeze and excitation behind a 1×1 convolution z = W y + b, to which the norm is folded, needs no z: the mean of z is
that of y under the same convolution, and the gate s = σ(fc2(relu(fc1(W mean(y) + b)))) scales the rows of W,

    out = relu(s · z + shortcut) = relu((s · W) y + s · b + shortcut),

one call of oneDNN, which Inductor makes for convolutions with constant weights. It writes onto the shortcut.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from fastiqa.models.inference.layers import is_plain
from fastiqa.models.inference.in_place import OverwritesItsShortcut
from fastiqa.models.inference.onednn import conv_add_relu_, one_call
from fastiqa.nn import SERes2Block


class InferenceSERes2Block(OverwritesItsShortcut, SERes2Block):
    """A bottleneck whose norms are folded. On CPUs it overwrites its shortcut, be it its own argument.

    Within a stage nobody else reads that but hooks, for which it is copied, see `OverwritesItsShortcut`. The first
    block of a stage has a convolution in the shortcut.
    """

    def _tail(self, y: Tensor, shortcut: Tensor) -> Tensor:
        conv = self.conv3
        if not one_call(y, conv.weight, y, shortcut):
            return super()._tail(y, shortcut)
        shortcut = self._own(shortcut)
        scales = torch.sigmoid(self.se.logits(conv(y.mean((2, 3), keepdim=True))))
        for i, scale in enumerate(scales):
            part = slice(i, i + 1)
            conv_add_relu_(shortcut[part], y[part], conv.weight * scale[:, None], conv.bias * scale.flatten())
        return shortcut


def make_inference_block(block: Any) -> None:
    """Makes a bottleneck, in place, one for inference, where its last norm is folded and its end has plain layers."""
    if type(block.bn3) is nn.Identity and is_plain(block.conv3, block.bn3, block.se):
        block.__class__ = InferenceSERes2Block
