"""Visual Attention Network on fused depthwise convolutions, and with less memory in training."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from fastiqa import reference
from fastiqa.nn.backbone import Backbone
from fastiqa.nn.batch_norm_act import BatchNormAct2d
from fastiqa.nn.large_kernel_attention import LargeKernelAttention
from fastiqa.nn.recomputation import CheckpointedBlock
from fastiqa.reference.plain_layers import not_plain
from fastiqa.reference.van import StochasticDepth


class VANBlock(CheckpointedBlock, reference.VANBlock):
    """Equivalent to `fastiqa.reference.VANBlock`, with levels of memory for the backward pass."""

    attention_block: ClassVar[type[reference.LargeKernelAttention]] = LargeKernelAttention
    norm_block: ClassVar[type[reference.BatchNormAct2d]] = BatchNormAct2d

    def _sum(self, x: Tensor, scale: Tensor, branch: Tensor) -> Tensor:
        if not_plain("drop_path", self.drop_path, StochasticDepth) is not None:
            return super()._sum(x, scale, branch)
        return torch.addcmul(x, scale[:, None, None], self.drop_path(branch))  # one pass over the maps

    def _keeps(self, weight: Tensor) -> bool:
        """Keep the 1×1 convolutions, which are nearly all of a block's arithmetic."""
        return weight.shape[-1] == 1

    def _uses_random_numbers(self) -> bool:
        return getattr(self.drop_path, "probability", 1) > 0  # another module may draw


class VAN(Backbone, reference.VAN):
    """Equivalent to `fastiqa.reference.VAN`: same constructor, parameters, keys and results.

    Every block has `fastiqa.nn.LargeKernelAttention` and adds its branches, scaled, in one pass.

    Example:
        >>> import torch
        >>> network = VAN(depths=(1, 1, 1, 1), widths=(8, 16, 24, 32)).eval()
        >>> [tuple(features.shape) for features in network(torch.rand(1, 3, 64, 64))]
        [(1, 8, 16, 16), (1, 16, 8, 8), (1, 24, 4, 4), (1, 32, 2, 2)]

    Source: arXiv 2202.09741.
    """

    block: ClassVar[type[reference.VANBlock]] = VANBlock
    norm_block: ClassVar[type[reference.BatchNormAct2d]] = BatchNormAct2d
    last_modules = ("norm1", "norm2", "norm3", "norm4")
