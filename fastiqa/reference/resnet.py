"""ResNet of bottlenecks in plain PyTorch.

    out = relu(bn3(conv3(relu(bn2(conv2(relu(bn1(conv1(x)))))))) + shortcut)

conv1: 1×1 to `planes` channels, conv2: 3×3, which has the stride, conv3: 1×1 to 4 · planes. Parameter names are
torchvision's.

Source: He et al., arXiv 1512.03385, with the stride on the 3×3 convolutions as in every published file.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn

from fastiqa.reference.batch_norm_act import BatchNormAct2d, NormHolder
from fastiqa.reference.plain_layers import has_hooks
from fastiqa.reference.residual_network import EXPANSION, ResidualNetwork, projection


class Bottleneck(NormHolder):
    """Residual block: (N, inputs, H, W) → (N, 4 · planes, ⌈H/stride⌉, ⌈W/stride⌉).

    Args:
        inputs: channels of the input.
        planes: channels of the 3×3 convolution, a quarter of the output's.
        stride: of the 3×3 convolution.
        first: whether the block begins a stage: its shortcut is a convolution.
    """

    norm_block: ClassVar[type[BatchNormAct2d]] = BatchNormAct2d

    def __init__(self, inputs: int, planes: int, stride: int, first: bool) -> None:
        super().__init__()
        outputs = planes * EXPANSION
        self.conv1 = nn.Conv2d(inputs, planes, 1, bias=False)
        self.bn1 = self.norm_block(planes)
        self.conv2 = nn.Conv2d(planes, planes, 3, stride, 1, bias=False)
        self.bn2 = self.norm_block(planes)
        self.conv3 = nn.Conv2d(planes, outputs, 1, bias=False)
        self.bn3 = self.norm_block(outputs, negative_slope=1.0)
        self.downsample = projection(inputs, outputs, stride, self.norm_block) if first else None

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x
        if self.downsample is not None:
            shortcut = self.downsample(x)
        y: Tensor = self.bn3(self.conv3(self.bn2(self.conv2(self.bn1(self.conv1(x))))))
        if torch.jit.is_scripting():  # type: ignore[attr-defined]
            return torch.relu_(y.add_(shortcut))
        else:  # noqa: RET505, TorchScript leaves out what such a condition decides
            # In place, except with hooks: they may keep the result, and autograd forbids to change their views.
            return torch.relu_(y + shortcut if has_hooks(self.bn3) else y.add_(shortcut))


class ResNet(ResidualNetwork):
    """ResNet without a classifier.

    Args:
        layers: blocks per stage, four numbers; (3, 4, 6, 3) is the 50-layer network.
        width: channels of the stem; stage i (0 … 3) has 4 · width · 2^i output channels.

    Attributes:
        channels: widths of the four maps.
        strides: pixels per element of the four maps, (4, 8, 16, 32).

    Raises: ValueError naming the argument.
    """

    block: ClassVar[type[Bottleneck]] = Bottleneck

    def __init__(self, layers: Sequence[int] = (3, 4, 6, 3), width: int = 64) -> None:
        super().__init__(layers, width, first_stage_stride=4, block=self.block)
