"""ResNet with fused normalisation and activation, and with less memory in training."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from fastiqa import reference
from fastiqa.nn.backbone import Backbone
from fastiqa.nn.batch_norm_act import BatchNormAct2d
from fastiqa.nn.recomputation import CheckpointedBlock


class Bottleneck(CheckpointedBlock, reference.Bottleneck):
    """Equivalent to `fastiqa.reference.Bottleneck`, with levels of memory for the backward pass."""

    norm_block: ClassVar[type[reference.BatchNormAct2d]] = BatchNormAct2d

    def _keeps(self, weight: Tensor) -> bool:
        """Keep the narrow convolutions, not the last one and the shortcut's, which are as wide as the block."""
        return self._is_narrow(weight, self.conv3)


class ResNet(Backbone, reference.ResNet):
    """Equivalent to `fastiqa.reference.ResNet`: same constructor, parameters, keys and results.

    Every normalisation, with the ReLU after it where there is one, is `fastiqa.nn.BatchNormAct2d`.

    Example:
        >>> import torch
        >>> network = ResNet(layers=(1, 1, 1, 1), width=8).eval()
        >>> [tuple(features.shape) for features in network(torch.rand(1, 3, 64, 64))]
        [(1, 32, 16, 16), (1, 64, 8, 8), (1, 128, 4, 4), (1, 256, 2, 2)]

    Source: arXiv 1512.03385.
    """

    block: ClassVar[type[reference.Bottleneck]] = Bottleneck
    norm_block: ClassVar[type[reference.BatchNormAct2d]] = BatchNormAct2d
