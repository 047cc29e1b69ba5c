"""The base of the residual networks: a stem and four stages of bottlenecks.

    x = maxpool(relu(bn1(conv1(image))))        conv1: 7×7 of stride 2; maxpool: 3×3 of stride 2
    y_i = layer_i(y_{i−1}), y_0 = x             i = 1 … 4, blocks in sequence; the first's shortcut is a convolution

Source: He et al., arXiv 1512.03385; parameters are named as in torchvision.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import ClassVar

from torch import Tensor, nn

from fastiqa.common import arguments
from fastiqa.common.tracing import Scriptable
from fastiqa.reference.batch_norm_act import BatchNormAct2d, NormHolder, NormSequential

EXPANSION = 4


class ResidualNetwork(Scriptable, NormHolder):
    """Base of residual networks without a classifier.

    Args:
        layers: blocks per stage, four numbers.
        width: channels of the stem; stage i (0 … 3) has 4 · width · 2^i output channels.
        first_stage_stride: 4 is the stock network; 2 leaves the max-pooling out and uses the same weights.
        block: makes a block from `inputs`, `planes` (a quarter of its outputs), `stride` and `first` (of its stage).

    Attributes:
        channels: widths of the four maps.
        strides: pixels per element of the four maps, `first_stage_stride` · (1, 2, 4, 8).

    Raises: ValueError naming the argument.
    """

    norm_block: ClassVar[type[BatchNormAct2d]] = BatchNormAct2d
    __jit_unused_properties__: ClassVar[list[str]] = ["stages"]

    layer1: nn.Sequential
    layer2: nn.Sequential
    layer3: nn.Sequential
    layer4: nn.Sequential

    def __init__(
        self, layers: Sequence[int], width: int, first_stage_stride: int, block: Callable[..., nn.Module]
    ) -> None:
        super().__init__()
        layers = arguments.integers("layers", layers, 4)
        arguments.integer("width", width)
        arguments.one_of("first_stage_stride", first_stage_stride, (2, 4))
        self.channels = tuple(width * EXPANSION * 2**i for i in range(4))
        self.strides = tuple(first_stage_stride * 2**i for i in range(4))
        self.conv1 = nn.Conv2d(3, width, 7, 2, 3, bias=False)
        self.bn1 = self.norm_block(width)
        self.maxpool = nn.MaxPool2d(3, 2, padding=1) if first_stage_stride == 4 else nn.Identity()
        inputs = width
        for i, depth in enumerate(layers):
            outputs = self.channels[i]
            blocks = [
                block(
                    inputs=outputs if j else inputs,
                    planes=outputs // EXPANSION,
                    stride=2 if i and not j else 1,
                    first=j == 0,
                )
                for j in range(depth)
            ]
            self.add_module(f"layer{i + 1}", nn.Sequential(*blocks))
            inputs = outputs
        for module in self.modules():
            # Only gates have convolutions with a bias; they keep PyTorch's initialisation.
            if isinstance(module, nn.Conv2d) and module.bias is None:
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def stem(self, image: Tensor) -> Tensor:
        """Normalised image (N, 3, H, W) → the input of the first stage."""
        x: Tensor = self.maxpool(self.bn1(self.conv1(image)))
        return x

    @property
    def stages(self) -> tuple[nn.Sequential, ...]:
        """The four stages: each takes the map of the stage before, the first the result of `stem`."""
        return self.layer1, self.layer2, self.layer3, self.layer4

    def forward(self, image: Tensor) -> list[Tensor]:
        """Normalised image (N, 3, H, W) → four maps (N, channels[i], ⌈H/strides[i]⌉, ⌈W/strides[i]⌉)."""
        first = self.layer1(self.stem(image))
        second = self.layer2(first)
        third = self.layer3(second)
        return [first, second, third, self.layer4(third)]


def projection(inputs: int, outputs: int, stride: int, norm_block: type[BatchNormAct2d]) -> nn.Sequential:
    """The shortcut of a stage's first block: convolution 1×1 and normalisation."""
    return NormSequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), norm_block(outputs, negative_slope=1.0))
