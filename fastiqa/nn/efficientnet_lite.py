"""EfficientNet-Lite0 with fused normalisation, and with less memory in training."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from fastiqa import reference
from fastiqa.nn.backbone import Backbone
from fastiqa.nn.batch_norm_act import BatchNormAct2d
from fastiqa.nn.recomputation import CheckpointedBlock


class DepthwiseSeparable(CheckpointedBlock, reference.DepthwiseSeparable):
    """Equivalent to `fastiqa.reference.DepthwiseSeparable`, with levels of memory for the backward pass."""

    norm_block: ClassVar[type[reference.BatchNormAct2d]] = BatchNormAct2d

    def _keeps(self, weight: Tensor) -> bool:
        """Keep the 1×1 convolution's result, which is narrower than the depthwise one's."""
        return weight.shape[1] > 1


class InvertedResidual(CheckpointedBlock, reference.InvertedResidual):
    """Equivalent to `fastiqa.reference.InvertedResidual`, with levels of memory for the backward pass."""

    norm_block: ClassVar[type[reference.BatchNormAct2d]] = BatchNormAct2d

    def _keeps(self, weight: Tensor) -> bool:
        """Keep the depthwise and the narrow result: the widest map is recomputed from the input."""
        return weight.shape[1] == 1 or weight.shape[0] < weight.shape[1]


class EfficientNetLite(Backbone, reference.EfficientNetLite):
    """Equivalent to `fastiqa.reference.EfficientNetLite`: same constructor, parameters, keys and results.

    Normalisation is `fastiqa.nn.BatchNormAct2d`. ReLU6 is PyTorch's: the fused operator has no upper bound.
    `fastiqa.optimize_for_inference` folds both into the convolutions.

    Example:
        >>> import torch
        >>> network = EfficientNetLite().eval()
        >>> [tuple(features.shape) for features in network(torch.rand(1, 3, 64, 64))]
        [(1, 16, 32, 32), (1, 24, 16, 16), (1, 40, 8, 8), (1, 112, 4, 4), (1, 320, 2, 2)]

    Source: arXiv 1905.11946.
    """

    depthwise_block: ClassVar[type[reference.DepthwiseSeparable]] = DepthwiseSeparable
    residual_block: ClassVar[type[reference.InvertedResidual]] = InvertedResidual
    norm_block: ClassVar[type[reference.BatchNormAct2d]] = BatchNormAct2d

    @property
    def last_modules(self) -> tuple[str, ...]:  # type: ignore[override]
        """For each map the name of the submodule that computes it."""
        return ("blocks.0", "blocks.1", "blocks.2", "blocks.4", "blocks.6")[0 if self.finest else 1 :]
