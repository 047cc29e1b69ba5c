"""LPIPS's trunks: the convolutions of AlexNet, VGG16 and SqueezeNet 1.1, and the layers that LPIPS taps.

    alex      relu1 … relu5                                   64, 192, 384, 256, 256 channels
    vgg       relu1_2, relu2_2, relu3_3, relu4_3, relu5_3     64, 128, 256, 512, 512
    squeeze   relu1, fire4, fire6, fire7 … fire10             64, 128, 256, 384, 384, 512, 512

Layers have torchvision's numbers and names, so its files load by key.

Sources: Krizhevsky, arXiv 1404.5997 (AlexNet); Simonyan and Zisserman, arXiv 1409.1556 (VGG); Iandola et al., arXiv
1602.07360 (SqueezeNet); Zhang et al., arXiv 1801.03924 (LPIPS).
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from fastiqa.common import arguments

NETS = ("alex", "vgg", "squeeze")
VGG_WIDTHS = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))


class Conv2d(nn.Conv2d):
    """`torch.nn.Conv2d` that computes in its input's dtype, whatever the dtype of its weights."""

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int, **options: Any) -> None:
        super().__init__(in_channels, out_channels, kernel_size, **options)

    def forward(self, x: Tensor) -> Tensor:
        bias = None if self.bias is None else self.bias.to(x.dtype)
        result: Tensor = self._conv_forward(x, self.weight.to(x.dtype), bias)
        return result


class Fire(nn.Module):
    """SqueezeNet's block: a 1×1 convolution to few channels, then 1×1 and 3×3 in parallel, each with a ReLU."""

    def __init__(self, in_channels: int, squeezed: int, expanded: int) -> None:
        super().__init__()
        self.squeeze = Conv2d(in_channels, squeezed, 1)
        self.expand1x1 = Conv2d(squeezed, expanded, 1)
        self.expand3x3 = Conv2d(squeezed, expanded, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.squeeze(x).relu_()
        return torch.cat([self.expand1x1(x), self.expand3x3(x)], 1).relu_()


class Stage(NamedTuple):
    """The layers from one tapped map to the next: pooling, if any, then the layers up to the map."""

    pool: nn.MaxPool2d | None
    layers: nn.Sequential


class Trunk(nn.Module):
    """Layers up to the last map that LPIPS taps.

    Args:
        layers: in torchvision's numbering.
        taps: numbers of the layers that produce the maps.
        channels: of the maps.
        smallest: smallest side of an image that reaches the last map, in pixels.

    Attributes:
        keeps_size: whether all convolutions are 3×3 and keep height and width, and all pooling is 2×2 without overlap:
            then the trunk can run in bands of rows.
    """

    def __init__(self, layers: Sequence[nn.Module], taps: Sequence[int], channels: Sequence[int], smallest: int):
        super().__init__()
        self.features = nn.Sequential(*layers)
        self.channels = tuple(channels)
        self.smallest = smallest
        self._bounds = tuple(itertools.pairwise((0, *(tap + 1 for tap in taps))))
        self.keeps_size = all(map(_keeps_size, layers))

    def stages(self) -> list[Stage]:
        """The layers, split after every tapped map."""
        stages = []
        for begin, end in self._bounds:
            first = self.features[begin]
            pool = first if isinstance(first, nn.MaxPool2d) else None
            layers = list(self.features)[begin if pool is None else begin + 1 : end]
            stages.append(Stage(pool, nn.Sequential(*layers)))
        return stages

    def forward(self, image: Tensor) -> list[Tensor]:
        """The tapped maps of scaled images (N, 3, H, W), from first to last."""
        maps = []
        for pool, layers in self.stages():
            image = layers(image if pool is None else pool(image))
            maps.append(image)
        return maps


def create_trunk(net: str) -> Trunk:
    """Create a trunk with random weights: "alex" (2.5 million), "vgg" (14.7) or "squeeze" (0.7).

    Raises: ValueError for another name.
    """
    arguments.one_of("net", net, NETS)
    return {"alex": _alex, "vgg": _vgg, "squeeze": _squeeze}[net]()


def _relu() -> nn.ReLU:
    return nn.ReLU(inplace=True)


def _alex() -> Trunk:
    layers = [
        *(Conv2d(3, 64, 11, stride=4, padding=2), _relu(), nn.MaxPool2d(3, 2)),
        *(Conv2d(64, 192, 5, padding=2), _relu(), nn.MaxPool2d(3, 2)),
        *(Conv2d(192, 384, 3, padding=1), _relu()),
        *(Conv2d(384, 256, 3, padding=1), _relu()),
        *(Conv2d(256, 256, 3, padding=1), _relu()),
    ]
    return Trunk(layers, (1, 4, 7, 9, 11), (64, 192, 384, 256, 256), smallest=31)


def _vgg() -> Trunk:
    layers: list[nn.Module] = []
    taps, width = [], 3
    for stage, widths in enumerate(VGG_WIDTHS):
        if stage > 0:
            layers.append(nn.MaxPool2d(2, 2))
        for out in widths:
            layers += [Conv2d(width, out, 3, padding=1), _relu()]
            width = out
        taps.append(len(layers) - 1)
    return Trunk(layers, taps, [widths[-1] for widths in VGG_WIDTHS], smallest=16)


def _squeeze() -> Trunk:
    def pool() -> nn.MaxPool2d:
        return nn.MaxPool2d(3, 2, ceil_mode=True)

    layers = [
        *(Conv2d(3, 64, 3, stride=2), _relu()),
        *(pool(), Fire(64, 16, 64), Fire(128, 16, 64)),
        *(pool(), Fire(128, 32, 128), Fire(256, 32, 128)),
        *(pool(), Fire(256, 48, 192), Fire(384, 48, 192), Fire(384, 64, 256), Fire(512, 64, 256)),
    ]
    return Trunk(layers, (1, 4, 7, 9, 10, 11, 12), (64, 128, 256, 384, 384, 512, 512), smallest=17)


def _keeps_size(layer: nn.Module) -> bool:
    if isinstance(layer, nn.Conv2d):
        return (layer.kernel_size, layer.padding, layer.stride) == ((3, 3), (1, 1), (1, 1))
    if isinstance(layer, nn.MaxPool2d):
        return (layer.kernel_size, layer.stride, layer.ceil_mode) == (2, 2, False)
    return isinstance(layer, nn.ReLU)


def halo(layers: nn.Sequential) -> int:
    """The rows on each side of a band that its result depends on, if the trunk keeps the size."""
    return sum(isinstance(layer, nn.Conv2d) for layer in layers)


def width_of(layers: nn.Sequential) -> int:
    """The channels of the widest map inside."""
    return max(layer.out_channels for layer in layers if isinstance(layer, nn.Conv2d))
