"""SE-Res2Net with fused normalisation, activation and bottleneck tails, and with less memory in training."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from fastiqa import reference
from fastiqa.nn.backbone import Backbone
from fastiqa.nn.batch_norm_act import BatchNormAct2d
from fastiqa.nn.recomputation import CheckpointedBlock
from fastiqa.nn.squeeze_excitation import SqueezeExcitation


class SERes2Block(CheckpointedBlock, reference.SERes2Block):
    """Equivalent to `fastiqa.reference.SERes2Block`, with levels of memory for the backward pass."""

    se_block: ClassVar[type[reference.SqueezeExcitation]] = SqueezeExcitation
    norm_block: ClassVar[type[reference.BatchNormAct2d]] = BatchNormAct2d

    def _keeps(self, weight: Tensor) -> bool:
        """Keep the narrow convolutions, not the last one and the shortcut's, which are as wide as the block."""
        return self._is_narrow(weight, self.conv3)


class SERes2Net(Backbone, reference.SERes2Net):
    """Equivalent to `fastiqa.reference.SERes2Net`: same constructor, parameters, keys and results.

    Every bottleneck ends in `fastiqa.nn.SqueezeExcitation`: gate, shortcut and ReLU in one pass. Every normalisation,
    with the ReLU after it where there is one, is `fastiqa.nn.BatchNormAct2d`.

    Example:
        >>> import torch
        >>> network = SERes2Net(layers=(1, 1, 1, 1), width=8).eval()
        >>> [tuple(features.shape) for features in network(torch.rand(1, 3, 64, 64))]
        [(1, 32, 32, 32), (1, 64, 16, 16), (1, 128, 8, 8), (1, 256, 4, 4)]

    Sources: arXiv 1904.01169 (Res2Net), 1709.01507 (squeeze and excitation).
    """

    block: ClassVar[type[reference.SERes2Block]] = SERes2Block
    norm_block: ClassVar[type[reference.BatchNormAct2d]] = BatchNormAct2d
