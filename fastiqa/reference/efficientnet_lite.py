"""EfficientNet-Lite0 in plain PyTorch.

    x   = relu6(bn1(conv_stem(image)))                              3×3 of stride 2 to 32 channels
    DS  = bn2(conv_pw(relu6(bn1(conv_dw(x)))))                      depthwise, then 1×1: the first block
    IR  = bn3(conv_pwl(relu6(bn2(conv_dw(relu6(bn1(conv_pw(x)))))))) + x     1×1 to 6 C, depthwise, 1×1

The sum is left out where a block changes size or width. The seven stages have strides 1, 2, 2, 2, 1, 2, 1, kernels of
3, 3, 5, 3, 5, 5, 3, and no squeeze and excitation. Strided convolutions pad as TensorFlow's "SAME": one zero more after
the map than before it where its size is even, as in the network that the published weights were trained in.

Sources: Tan and Le, arXiv 1905.11946; the Lite variant, its sizes and its normalisation (x · 255 − 127) / 128 from
Google's `tpu/models/official/efficientnet/lite`. Parameters are named as in timm.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from fastiqa.common import arguments
from fastiqa.common.tracing import Scriptable
from fastiqa.reference.batch_norm_act import BatchNormAct2d, NormHolder

EXPANSION = 6
STRIDES = (1, 2, 2, 2, 1, 2, 1)
KERNELS = (3, 3, 5, 3, 5, 5, 3)
# Of the published network; PyTorch's momentum is the share of the newest batch.
EPS, MOMENTUM = 1e-3, 0.01


class SamePad2d(nn.Module):
    """Zeros around a map for an unpadded convolution of stride 2, as TensorFlow's "SAME": k − 2 + size % 2 in all."""

    def __init__(self, kernel: int) -> None:
        super().__init__()
        self.kernel = kernel

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) → (N, C, H + k − 2 + H % 2, W + k − 2 + W % 2)."""
        height, width = self.kernel - 2 + x.shape[2] % 2, self.kernel - 2 + x.shape[3] % 2
        return pad(x, [width // 2, width - width // 2, height // 2, height - height // 2])


def same_pad(kernel: int, stride: int) -> SamePad2d | None:
    """The padding before `convolution`, or None where it pads itself."""
    return SamePad2d(kernel) if stride == 2 else None


def convolution(inputs: int, outputs: int, kernel: int, stride: int, groups: int = 1) -> nn.Conv2d:
    """A convolution without bias, which pads itself at stride 1."""
    return nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2 if stride == 1 else 0, groups=groups, bias=False)


class DepthwiseSeparable(NormHolder):
    """First block: (N, inputs, H, W) → (N, outputs, H, W).

    Args:
        inputs: channels of the input.
        outputs: channels of the output.
        kernel: odd size of the depthwise convolution.
    """

    norm_block: ClassVar[type[BatchNormAct2d]] = BatchNormAct2d

    def __init__(self, inputs: int, outputs: int, kernel: int) -> None:
        super().__init__()
        self.conv_dw = convolution(inputs, inputs, kernel, 1, groups=inputs)
        self.bn1 = self.norm_block(inputs, 1.0, EPS, MOMENTUM)
        self.act1 = nn.ReLU6()
        self.conv_pw = convolution(inputs, outputs, 1, 1)
        self.bn2 = self.norm_block(outputs, 1.0, EPS, MOMENTUM)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.bn2(self.conv_pw(self.act1(self.bn1(self.conv_dw(x)))))
        return y


class InvertedResidual(NormHolder):
    """Block that widens, filters and narrows: (N, inputs, H, W) → (N, outputs, ⌈H/stride⌉, ⌈W/stride⌉).

    Args:
        inputs: channels of the input; six times as many inside.
        outputs: channels of the output.
        kernel: odd size of the depthwise convolution.
        stride: of the depthwise convolution, 1 or 2. With 1 and as many outputs as inputs, the input is added.
    """

    norm_block: ClassVar[type[BatchNormAct2d]] = BatchNormAct2d

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int) -> None:
        super().__init__()
        width = inputs * EXPANSION
        self.adds = stride == 1 and inputs == outputs
        self.conv_pw = convolution(inputs, width, 1, 1)
        self.bn1 = self.norm_block(width, 1.0, EPS, MOMENTUM)
        self.act1 = nn.ReLU6()
        self.pad = same_pad(kernel, stride)
        self.conv_dw = convolution(width, width, kernel, stride, groups=width)
        self.bn2 = self.norm_block(width, 1.0, EPS, MOMENTUM)
        self.act2 = nn.ReLU6()
        self.conv_pwl = convolution(width, outputs, 1, 1)
        self.bn3 = self.norm_block(outputs, 1.0, EPS, MOMENTUM)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.act1(self.bn1(self.conv_pw(x)))
        if self.pad is not None:
            y = self.pad(y)
        y = self.bn3(self.conv_pwl(self.act2(self.bn2(self.conv_dw(y)))))
        return y + x if self.adds else y


class EfficientNetLite(Scriptable, NormHolder):
    """EfficientNet-Lite without the last 1×1 convolution and the classifier.

    Args:
        first_stage_stride: pixels per element of the finest map: 2 gives five maps, 4 leaves the first one out. The
            weights are the same.
        depths: blocks of the seven stages; the first has one.
        widths: channels of the seven stages.
        stem: channels of the first convolution.

    Attributes:
        channels: widths of the maps: those of stages 1, 2, 3, 5 and 7, or 2, 3, 5 and 7; (16, 24, 40, 112, 320).
        strides: pixels per element of the maps, (2, 4, 8, 16, 32) or (4, 8, 16, 32).
        image_mean, image_std: of the images that the published weights were trained with, in [0, 1].

    Raises: ValueError naming the argument.
    """

    depthwise_block: ClassVar[type[DepthwiseSeparable]] = DepthwiseSeparable
    residual_block: ClassVar[type[InvertedResidual]] = InvertedResidual
    norm_block: ClassVar[type[BatchNormAct2d]] = BatchNormAct2d
    image_mean: ClassVar[tuple[float, ...]] = (127 / 255,) * 3
    image_std: ClassVar[tuple[float, ...]] = (128 / 255,) * 3
    __jit_unused_properties__: ClassVar[list[str]] = ["stages"]

    def __init__(
        self,
        first_stage_stride: int = 2,
        depths: Sequence[int] = (1, 2, 2, 3, 3, 4, 1),
        widths: Sequence[int] = (16, 24, 40, 80, 112, 192, 320),
        stem: int = 32,
    ) -> None:
        super().__init__()
        arguments.one_of("first_stage_stride", first_stage_stride, (2, 4))
        depths = arguments.integers("depths", depths, 7)
        arguments.one_of("depths[0]", depths[0], (1,))
        widths = arguments.integers("widths", widths, 7)
        arguments.integer("stem", stem)
        self.finest = first_stage_stride == 2
        skipped = 0 if self.finest else 1
        self.channels = tuple(widths[i] for i in (0, 1, 2, 4, 6))[skipped:]
        self.strides = (2, 4, 8, 16, 32)[skipped:]
        self.pad = SamePad2d(3)
        self.conv_stem = convolution(3, stem, 3, 2)
        self.bn1 = self.norm_block(stem, 1.0, EPS, MOMENTUM)
        self.act1 = nn.ReLU6()
        stages: list[nn.Module] = [nn.Sequential(self.depthwise_block(stem, widths[0], KERNELS[0]))]
        for i in range(1, 7):
            blocks = [
                self.residual_block(widths[i] if j else widths[i - 1], widths[i], KERNELS[i], 1 if j else STRIDES[i])
                for j in range(depths[i])
            ]
            stages.append(nn.Sequential(*blocks))
        self.blocks = nn.Sequential(*stages)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                _initialise(module)

    def stem(self, image: Tensor) -> Tensor:
        """Normalised image (N, 3, H, W) → the input of the first stage, (N, 32, ⌈H/2⌉, ⌈W/2⌉)."""
        x: Tensor = self.act1(self.bn1(self.conv_stem(self.pad(image))))
        return x

    @property
    def stages(self) -> tuple[Callable[[Tensor], Tensor], ...]:
        """From map to map: each takes the map before its own, the first the result of `stem`."""
        groups = ((0,), (1,), (2,), (3, 4), (5, 6)) if self.finest else ((0, 1), (2,), (3, 4), (5, 6))
        return tuple(functools.partial(self._stage, group) for group in groups)

    def forward(self, image: Tensor) -> list[Tensor]:
        """Normalised image (N, 3, H, W) → maps (N, channels[i], ⌈H/strides[i]⌉, ⌈W/strides[i]⌉), finest first."""
        first = self.blocks[0](self.stem(image))
        second = self.blocks[1](first)
        third = self.blocks[2](second)
        fourth = self.blocks[4](self.blocks[3](third))
        fifth = self.blocks[6](self.blocks[5](fourth))
        if self.finest:
            return [first, second, third, fourth, fifth]
        return [second, third, fourth, fifth]

    @torch.jit.unused
    def _stage(self, numbers: tuple[int, ...], x: Tensor) -> Tensor:
        for number in numbers:
            x = self.blocks[number](x)
        return x


def _initialise(conv: nn.Conv2d) -> None:
    """Draw normal weights of variance 2 / (outputs that one input reaches)."""
    fan_out = conv.kernel_size[0] * conv.kernel_size[1] * conv.out_channels // conv.groups
    nn.init.normal_(conv.weight, 0.0, (2 / fan_out) ** 0.5)
