"""Guidance by an auxiliary branch, with less memory in training."""

from __future__ import annotations

from torch import Tensor

from fastiqa import reference
from fastiqa.nn.recomputation import CheckpointedBlock


class Guidance(CheckpointedBlock, reference.Guidance):
    """Equivalent to `fastiqa.reference.Guidance`, with levels of memory for the backward pass.

    Example:
        >>> import torch
        >>> from fastiqa.nn import FeatureFusion
        >>> guidance = Guidance(guide_channels=12, channels=16, fusion=FeatureFusion(16))
        >>> guidance(torch.randn(1, 16, 14, 14), torch.randn(1, 12, 14, 14)).shape
        torch.Size([1, 16, 14, 14])
    """

    def _keeps(self, weight: Tensor) -> bool:
        """Keep the narrow convolutions inside the fusion."""
        return self._is_narrow(weight, self.projection)
