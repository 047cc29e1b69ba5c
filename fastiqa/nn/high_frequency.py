"""High-frequency extraction on the fused split and join of octave convolutions."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from fastiqa import reference
from fastiqa.common.tracing import Leaf
from fastiqa.nn.batch_norm_act import BatchNormAct2d
from fastiqa.nn.fused import FusedNetwork
from fastiqa.nn.octave_conv import OctaveConv2d
from fastiqa.ops import octave_split


class OctaveSplit(Leaf, reference.OctaveSplit):
    """Equivalent to `fastiqa.reference.OctaveSplit`; `fastiqa.ops.octave_split` does both in one pass.

    Example:
        >>> import torch
        >>> act, pooled = OctaveSplit(0.2)(torch.tensor([[[[5.0, -5.0], [5.0, -5.0]]]]))
        >>> act.tolist(), pooled.tolist()
        ([[[[5.0, -1.0], [5.0, -1.0]]]], [[[[2.0]]]])
    """

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(N, C, H, W) → (N, C, H, W) and (N, C, ⌈H/2⌉, ⌈W/2⌉)."""
        act, pooled = octave_split(x, self.negative_slope)
        return act, pooled


class HighFrequencyModule(reference.HighFrequencyModule):
    """Equivalent to `fastiqa.reference.HighFrequencyModule`: same constructor, parameters, keys and results.

    One pass computes the activation of the high branch and its average for the next module.

    Example:
        >>> import torch
        >>> module = HighFrequencyModule(channels=16, alpha_in=0, alpha_out=0.25, stride=1)
        >>> [tuple(x.shape) for x in module(torch.randn(1, 16, 28, 28))]
        [(1, 12, 28, 28), (1, 4, 14, 14), (1, 12, 14, 14)]

    Source: arXiv 1904.05049, section 3.2.
    """

    conv_block: ClassVar[type[reference.OctaveConv2d]] = OctaveConv2d
    norm_block: ClassVar[type[reference.BatchNormAct2d]] = BatchNormAct2d
    split_block: ClassVar[type[reference.OctaveSplit]] = OctaveSplit


class HighFrequencyNet(FusedNetwork, reference.HighFrequencyNet):
    """Equivalent to `fastiqa.reference.HighFrequencyNet`: same constructor, parameters, keys and results.

    Example:
        >>> import torch
        >>> network = HighFrequencyNet(width=16).eval()
        >>> [tuple(high.shape) for high in network(torch.rand(1, 3, 64, 64))]
        [(1, 12, 16, 16), (1, 12, 8, 8), (1, 12, 4, 4), (1, 16, 2, 2)]

    Sources: arXiv 2411.07556, 1904.05049.
    """

    module_block: ClassVar[type[reference.HighFrequencyModule]] = HighFrequencyModule
    norm_block: ClassVar[type[reference.BatchNormAct2d]] = BatchNormAct2d
    split_block: ClassVar[type[reference.OctaveSplit]] = OctaveSplit
