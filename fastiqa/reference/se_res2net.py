"""SE-Res2Net in plain PyTorch: the feature extractor of PRFNet.

    x_1 … x_s = split(relu(bn1(conv1(x))))             conv1: 1×1 to s·w channels, w = ⌊planes · base_width / 64⌋
    y_i = relu(bn(conv3×3(x_i + y_{i−1}))), y_s = x_s  first block of a stage: no sums, y_s = avgpool3×3(x_s)
    out = relu(SE(bn3(conv3(cat(y)))) + shortcut)      conv3: 1×1 to 4 · planes channels
    SE(z) = z · sigmoid(fc2(relu(fc1(mean_hw(z)))))

The first block of a stage has the stride, on its 3×3 convolutions, its pooling and its shortcut. Parameters are named
as in the published Res2Net-50 files, those of squeeze and excitation as in timm.

Sources: Gao et al., arXiv 1904.01169 (Res2Net); Hu et al., arXiv 1709.01507 (squeeze and excitation).
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn

from fastiqa.common import arguments
from fastiqa.reference.batch_norm_act import BatchNormAct2d, NormHolder, NormList
from fastiqa.reference.residual_network import EXPANSION, ResidualNetwork, projection
from fastiqa.reference.squeeze_excitation import SqueezeExcitation


class SERes2Block(NormHolder):
    """SE-Res2Net bottleneck: (N, inputs, H, W) → (N, 4 · planes, ⌈H/stride⌉, ⌈W/stride⌉).

    Args:
        inputs: channels of the input.
        planes: a quarter of the output's channels.
        stride: of the 3×3 convolutions.
        base_width: channels of one piece for 64 planes.
        scale: pieces that the block splits into.
        se_reduction: reduction of the squeeze-and-excitation.
        first: whether the block begins a stage: its shortcut is a convolution, and its pieces do not add up.
    """

    se_block: ClassVar[type[SqueezeExcitation]] = SqueezeExcitation
    norm_block: ClassVar[type[BatchNormAct2d]] = BatchNormAct2d

    def __init__(
        self,
        inputs: int,
        planes: int,
        stride: int,
        base_width: int,
        scale: int,
        se_reduction: int,
        first: bool,
    ) -> None:
        super().__init__()
        norm_block = self.norm_block
        width = planes * base_width // 64
        outputs = planes * EXPANSION
        self.scale = scale
        self.conv1 = nn.Conv2d(inputs, width * scale, 1, bias=False)
        self.bn1 = norm_block(width * scale)
        self.convs = nn.ModuleList(nn.Conv2d(width, width, 3, stride, 1, bias=False) for _ in range(scale - 1))
        self.bns = NormList(norm_block(width) for _ in range(scale - 1))
        self.conv3 = nn.Conv2d(width * scale, outputs, 1, bias=False)
        self.bn3 = norm_block(outputs, negative_slope=1.0)
        self.se = self.se_block(outputs, se_reduction)
        self.pool = nn.AvgPool2d(3, stride, padding=1) if first else None
        self.downsample = projection(inputs, outputs, stride, norm_block) if first else None

    def forward(self, x: Tensor) -> Tensor:
        pieces = self.bn1(self.conv1(x)).chunk(self.scale, 1)
        outputs: list[Tensor] = []
        for i, (conv, bn) in enumerate(zip(self.convs, self.bns)):  # noqa: B905, TorchScript knows no strict zip
            piece = pieces[i]
            if i > 0 and self.pool is None:
                piece = piece + outputs[i - 1]
            outputs.append(bn(conv(piece)))
        last = pieces[self.scale - 1]
        if self.pool is not None:
            last = self.pool(last)
        outputs.append(last)
        shortcut = x
        if self.downsample is not None:
            shortcut = self.downsample(x)
        return self._tail(torch.cat(outputs, 1), shortcut)

    def _tail(self, y: Tensor, shortcut: Tensor) -> Tensor:
        """relu(SE(bn3(conv3(y))) + shortcut)."""
        result: Tensor = self.se(self.bn3(self.conv3(y)), shortcut)
        return result


class SERes2Net(ResidualNetwork):
    """SE-Res2Net without a classifier.

    Args:
        layers: blocks per stage, four numbers; (3, 4, 6, 3) is the 50-layer network.
        width: channels of the stem; stage i (0 … 3) has 4 · width · 2^i output channels.
        base_width: channels of one piece for 64 planes (26 in "26w").
        scale: pieces that a block splits into (4 in "4s"), at least 2.
        se_reduction: reduction of the squeeze-and-excitation.
        first_stage_stride: 4 is the stock network; 2 leaves the max-pooling out and uses the same weights.

    Attributes:
        channels: widths of the four maps.
        strides: pixels per element of the four maps, `first_stage_stride` · (1, 2, 4, 8).

    Raises: ValueError naming the argument.
    """

    block: ClassVar[type[SERes2Block]] = SERes2Block

    def __init__(
        self,
        layers: Sequence[int] = (3, 4, 6, 3),
        width: int = 64,
        base_width: int = 26,
        scale: int = 4,
        se_reduction: int = 16,
        first_stage_stride: int = 2,
    ) -> None:
        arguments.integer("width", width)
        arguments.integer("base_width", base_width)
        arguments.integer("scale", scale, minimum=2)
        arguments.integer("se_reduction", se_reduction)
        if width * base_width < 64:
            raise ValueError(f"base_width: got {base_width}, want at least {-(-64 // width)} for width {width}")
        block = functools.partial(self.block, base_width=base_width, scale=scale, se_reduction=se_reduction)
        super().__init__(layers, width, first_stage_stride, block)
